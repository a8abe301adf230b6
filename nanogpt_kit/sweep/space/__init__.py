"""The space: what a sweep tries. Reads [sweep.space], makes experiments of it and checks its endpoints."""
