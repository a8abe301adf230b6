"""Measuring on this machine: the speed of training and of generation, and what the machine offers."""
