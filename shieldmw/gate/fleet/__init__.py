"""State that all workers must agree on, the mode and the deny list, refreshed in the background."""
