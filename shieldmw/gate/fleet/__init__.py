"""State that all workers share: the mode and the deny list, refreshed in the background."""
