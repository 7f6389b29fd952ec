"""Which files there are to lint, and what is in them."""
