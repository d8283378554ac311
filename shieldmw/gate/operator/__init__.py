"""What operators can see and do."""
