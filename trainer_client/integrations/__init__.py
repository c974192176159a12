"""The scheduler in loops that others wrote: one module a framework, which imports it, and nothing else does."""
