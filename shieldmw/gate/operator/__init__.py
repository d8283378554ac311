"""What an operator can see and do."""
