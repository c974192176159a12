"""Samples by the billion: sums by shard, exact draws and orders of which no batch costs a look at all of them."""
