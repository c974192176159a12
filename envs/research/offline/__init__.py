"""What decision logs tell: data sets of them, and off-policy estimates with a verdict."""
