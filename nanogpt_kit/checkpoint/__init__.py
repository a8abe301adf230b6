"""Saving and loading checkpoints, each whole or absent."""
