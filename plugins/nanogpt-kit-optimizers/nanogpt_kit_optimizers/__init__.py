"""Optimizers for nanogpt-kit, one in each module."""
