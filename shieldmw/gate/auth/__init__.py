"""Authentication: the host app's own check, API keys and JSON Web Tokens."""
