"""Built-in components of kind attention."""
