"""Built-in components of kind norm."""
