"""Starting the processes of runs."""
