"""Programs only import it."""
