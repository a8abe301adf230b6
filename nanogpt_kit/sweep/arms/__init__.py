"""The arms of an ablation: changes of an experiment, read from its [ablate] table and from the command line."""
