"""Built-in components of kind dataset."""
