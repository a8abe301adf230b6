"""Sweeps: one experiment with many values of its options, chosen by Optuna; each trial is a process.

Imports between the parts: preview -> session -> report, work -> study -> space.
"""
