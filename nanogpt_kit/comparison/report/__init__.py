"""The report of a recorded comparison: its page, from comparison.json and from what is left of its runs."""
