"""The scheduler: learns which training samples come next, and serves them.

Public, for programs that build on it: `protocol` (the messages), `policies` (to write one), `testing` (a service of
one's own, and contracts) and `core` (the mathematics). All else is internal; docs/architecture.md shows the whole.
"""
