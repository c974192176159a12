"""The demo: real training runs over real HTTP, compared, and shown in one HTML page. Run `python -m demo`."""
