"""Built-in components of kind callback."""
