"""The demo: real training runs over real HTTP, compared, and told in one HTML page. Run `python -m demo`."""
