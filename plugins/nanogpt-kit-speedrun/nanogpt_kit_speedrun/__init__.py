"""A model with the parts of the modded-nanogpt speedrun that helped at several scales."""
