"""What scheduling takes, beside what one would have without it."""
