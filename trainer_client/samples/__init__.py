"""Internal: samples of a data set one by one: their indices, and what they show."""
