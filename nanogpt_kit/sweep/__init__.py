"""Sweeps: the same experiment with other values, chosen by Optuna, each trial a process.

Arrows between the rooms: preview -> session -> report, work -> study -> space.
"""
