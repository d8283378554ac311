"""Real load against a running server: the crowd, what it counts, and the verdict."""
