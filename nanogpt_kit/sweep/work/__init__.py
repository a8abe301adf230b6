"""The work: one controller a machine, which runs each trial as a process in a machine slot and shows the progress."""
