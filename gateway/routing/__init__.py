"""Which worker serves a request: pure decisions."""
