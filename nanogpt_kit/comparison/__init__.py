"""Comparison of runs: pairs, intervals, verdicts and the ledger. It reads runs and starts none."""
