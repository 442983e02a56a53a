"""Charts and the page. Reads records only, never torch."""
