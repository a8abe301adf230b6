"""One component of each kind, small and complete."""
