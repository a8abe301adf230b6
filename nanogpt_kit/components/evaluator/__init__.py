"""Built-in components of kind evaluator."""
