"""Models of other programs: imported as runs, and exported from runs. The formats are components."""
