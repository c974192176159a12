"""The page that the demo writes: its pictures, its words, its template."""
