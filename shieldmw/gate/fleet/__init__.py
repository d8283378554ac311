"""What all workers must agree on: the mode and the deny list, kept up to date in the background."""
