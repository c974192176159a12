"""What is shown of jobs: where they are, their samples, and all of one at once."""
