"""Files that are there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path to write to, which takes the place of `path` at the end: an interruption leaves what was there."""
    temporary = path.with_suffix(".part")
    yield temporary
    temporary.replace(path)
