"""What clients see: one module per surface, thin."""
