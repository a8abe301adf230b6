"""The run directory: where it is, who works in it, what it came from, what it measured. Knows no torch."""
