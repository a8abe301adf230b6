"""Built-in components of kind order."""
