"""The search space: reads [sweep.space], makes experiments from its points and checks its endpoints."""
