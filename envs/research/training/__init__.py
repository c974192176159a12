"""How policies are trained: imitation of a teacher, stable-baselines3, a cross-entropy search."""
