"""One browser for all tests of a file."""

from tests.report.pictures import browser

__all__ = ["browser"]
