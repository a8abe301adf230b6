"""The folder of a run: its records, lock, metrics and samples. It knows no torch."""
