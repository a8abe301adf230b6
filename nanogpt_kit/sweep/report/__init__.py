"""The report: what a sweep found, as report.html and best.toml."""
