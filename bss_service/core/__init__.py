"""The mathematics: pure NumPy, no I/O, no clock, no globals, randomness handed in.

"The BSS paper" is Balance-aware Sequence Sampling (IJCAI 2025); "the released code" is njustkmg/IJCAI25-BSS.
"""
