"""Internal. A job: one training run's state, what changes it, what it refuses, and how it is shown and kept."""
