"""The blocks of the pages that come from the code: see generate.py."""
