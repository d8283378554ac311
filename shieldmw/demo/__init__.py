"""The story of the live event, told with real load."""
