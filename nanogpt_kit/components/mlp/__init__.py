"""Built-in components of kind mlp."""
