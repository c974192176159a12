"""In which order changes are written, and when they reach SQLite's database."""
