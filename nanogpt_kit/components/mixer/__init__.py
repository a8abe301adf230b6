"""Built-in components of kind mixer."""
