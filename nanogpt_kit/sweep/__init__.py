"""Sweeps and comparisons. A sweep is one experiment with many values of its options, chosen by Optuna; a comparison is
several experiments with the same seeds. Each of their runs is a process.

Imports between the parts: comparison_preview -> preview -> comparison, session -> report, work -> ablation -> arms ->
study -> space.
"""
