"""Suites: training methods on equal terms, over tasks and paired seeds. docs/how-to/suites.md has the protocol."""
