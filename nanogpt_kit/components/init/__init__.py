"""Built-in components of kind init."""
