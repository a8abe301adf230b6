"""Sweeps: the same experiment with other values, chosen by Optuna, one process each."""
