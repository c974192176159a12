"""A reference trainer: late fusion of two or more modalities, served by the scheduler."""
