"""The admin routes for operators, under the admin path and on a listener of their own."""
