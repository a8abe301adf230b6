"""Text to tokens on disk, tokens to batches."""
