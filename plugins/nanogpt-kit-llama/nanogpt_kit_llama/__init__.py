"""Llama-shaped models for nanogpt-kit, in the files of transformers."""
