"""The limiter: determines a request's charges, and takes them exactly, with as few calls as possible."""
