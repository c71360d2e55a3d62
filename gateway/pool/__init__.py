"""Which workers exist, and how they are."""
