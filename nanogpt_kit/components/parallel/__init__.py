"""Built-in components of kind parallel."""
