"""Where arrays live, what their module is, and where random numbers come from."""
