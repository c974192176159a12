"""What runs beside the GPU: the client, the batch sampler, and what is measured of each step."""
