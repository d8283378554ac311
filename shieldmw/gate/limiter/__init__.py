"""The limiter: who is charged what, and the cheapest exact way to charge it."""
