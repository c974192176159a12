"""Internal: requests over HTTP, whom they go to, and who is trusted."""
