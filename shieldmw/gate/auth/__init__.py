"""Who is asking: the host app's own check, API keys and JSON web tokens."""
