"""Experiment tracking with trackio for nanogpt-kit: a callback, and a verb for runs that were trained without it."""
