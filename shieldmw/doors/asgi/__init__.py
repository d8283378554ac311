"""The ASGI door: HTTP in, HTTP out. The only layer that knows scopes, headers and messages."""
