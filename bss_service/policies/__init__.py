"""Policies: each looks at an observation and picks an action; some learn from the reward."""
