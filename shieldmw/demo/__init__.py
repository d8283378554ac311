"""The demo: a live event under real load."""
