"""Training: what a method is, one step of it, and the loop."""
