"""Built-in components of kind sampler."""
