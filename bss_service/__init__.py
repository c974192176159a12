"""The scheduler: learns which training samples come next, and serves them."""
