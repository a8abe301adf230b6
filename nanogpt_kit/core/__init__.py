"""Errors, TOML files and their layers, options, registry, kinds, hooks, experiment. Imports no torch, reads no text."""
