"""What becomes of the app, its members and its operator while a botnet overloads the app."""
