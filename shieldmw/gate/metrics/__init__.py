"""What a worker counts and measures, and how the workers of one ``serve`` share it."""
