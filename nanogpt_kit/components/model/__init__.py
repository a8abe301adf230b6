"""Built-in components of kind model."""
