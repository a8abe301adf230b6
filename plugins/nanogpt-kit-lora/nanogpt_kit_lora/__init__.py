"""Low-rank adapters for nanogpt-kit."""
