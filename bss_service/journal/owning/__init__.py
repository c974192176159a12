"""Who may write: one service to a whole store, or each of several that share one to the jobs of its shards."""
