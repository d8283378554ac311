"""The operator's routes, under the admin path and on a listener of their own."""
