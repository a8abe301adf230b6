"""Saving and loading, whole or absent."""
