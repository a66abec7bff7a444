"""Start ranks and watch them."""
