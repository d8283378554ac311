"""What becomes of the app, its members and its operator while a botnet asks for more than the app can do."""
