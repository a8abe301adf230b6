"""Built-in components of kind optimizer."""
