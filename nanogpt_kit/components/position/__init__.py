"""Built-in components of kind position."""
