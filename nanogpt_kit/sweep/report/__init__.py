"""The results of a sweep as report.html and best.toml."""
