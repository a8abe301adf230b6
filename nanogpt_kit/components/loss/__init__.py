"""Built-in components of kind loss."""
