"""The mathematics: pure NumPy, no I/O, no clock, no globals, randomness handed in."""
