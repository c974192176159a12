"""Internal: the samples of a data set: their indices, what they show, and a pass over their batches."""
