"""Each runs as `python -m benchmarks.peers.rivals.NAME`, and hands one call to `loop.answer`."""
