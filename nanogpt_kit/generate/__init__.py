"""Text generation: loading a trained model, decoding with a cache, drawing tokens."""
