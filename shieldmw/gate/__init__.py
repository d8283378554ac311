"""The gate: identifies the client of a request, charges its limits, and decides."""
