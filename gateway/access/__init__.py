"""Who may send a request, and whether it runs now."""
