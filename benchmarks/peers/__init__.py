"""The hot call beside what others offer for the same: each in an environment and a process of its own."""
