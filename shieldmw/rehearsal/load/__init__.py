"""Real load against a running server: the crowd, the counts, and the verdict."""
