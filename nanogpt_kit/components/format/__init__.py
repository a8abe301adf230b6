"""Built-in components of kind format."""
