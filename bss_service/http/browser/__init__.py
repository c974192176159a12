"""Internal. What browsers get: headers that bind them, and the page at `/` with its files."""
