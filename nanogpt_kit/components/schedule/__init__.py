"""Built-in components of kind schedule."""
