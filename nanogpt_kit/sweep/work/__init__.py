"""Running trials: one controller on each machine starts each trial as a process in a machine slot."""
