"""Internal: how one rank comes by its batches and delivers its feedback, while no training step waits."""
