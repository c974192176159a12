"""What a DataLoader meets: a dataset that says which its samples are, and a pass over the batches of an epoch."""
