"""Pictures of what a probe has read and what it means, and the page that holds them; from records only."""
