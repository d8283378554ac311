"""HTTP in, HTTP out: the only floor that knows scopes, headers and messages."""
