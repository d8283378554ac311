"""One request, one verdict: who is asking, what it is charged, what becomes of it."""
