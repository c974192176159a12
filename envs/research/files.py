"""Files that are there whole or not at all: on this machine, or wherever fsspec reaches."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

AT_ONCE: Final = 16  # files that are read at a time: a store far away answers each in tens of milliseconds


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path to write to, which takes the place of `path` at the end: an interruption leaves what was there."""
    temporary = path.with_suffix(".part")
    yield temporary
    temporary.replace(path)


class Storage:
    """A folder of files by name: a path, or a URL that fsspec knows, as s3://bucket/folder or sftp://host/folder."""

    def __init__(self, where: str) -> None:
        """Raises ValueError for a kind of URL that isn't known, ImportError naming the package that one needs."""
        from fsspec.core import url_to_fs

        self.where = where
        self._files, self._root = url_to_fs(where)

    def names(self) -> set[str]:
        """Of the files that are there."""
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return set()
        return {path.rsplit("/", 1)[-1] for path in found if not path.endswith(".part")}

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        data: bytes = self._files.cat_file(f"{self._root}/{name}")
        return data

    def write(self, name: str, data: bytes) -> None:
        """In one act: whoever reads finds all of it, or what was there before."""
        self._files.makedirs(self._root, exist_ok=True)
        temporary = f"{self._root}/{name}.{uuid4().hex}.part"
        self._files.pipe_file(temporary, data)
        self._files.mv(temporary, f"{self._root}/{name}")


class Results:
    """What has come of cells, as JSON: one file a cell, which holds the cell beside its result."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def complete(
        self, cells: Sequence[Mapping[str, Any]], compute: Callable[[list[int]], Iterable[tuple[int, Any]]]
    ) -> list[Any]:
        """The result of each cell. Those that are not there are computed, each once, and kept as they come.

        cells: all that their results depend on, as JSON values. compute: of cells by their places, gives places and
        results, JSON values, in any order. So who is interrupted loses what was being computed, and nothing else.
        """
        names = [_name(cell) for cell in cells]
        results = self._there(set(names))
        first = {name: place for place, name in reversed([*enumerate(names)])}
        missing = sorted(place for name, place in first.items() if name not in results)
        for place, result in compute(missing):
            results[names[place]] = result
            self.storage.write(names[place], _bytes({"cell": cells[place], "result": result}))
        return [results[name] for name in names]

    def _there(self, names: set[str]) -> dict[str, Any]:
        found = sorted(names & self.storage.names())
        with ThreadPoolExecutor(AT_ONCE) as readers:
            read = dict(zip(found, readers.map(self._read, found), strict=True))
        return {name: result for name, result in read.items() if result is not None}

    def _read(self, name: str) -> Any:
        try:
            return json.loads(self.storage.read(name))["result"]
        except (ValueError, KeyError, TypeError):
            return None  # a machine that loses its power may leave such a file; what was in it is computed again


def _bytes(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _name(cell: Mapping[str, Any]) -> str:
    return f"{hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:32]}.json"
