"""Built-in components of kind tokenizer."""
