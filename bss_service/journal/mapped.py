"""Columns of samples by the billion in a file, mapped into memory: numbers alone, behind a header with checksums.

The file is never the truth. While it is written into it counts as torn, until it is sealed with the number of the last
journal entry that it has; one that is torn, cut or not as it was written is refused, to be made again.
"""

import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Final, Self

import numpy as np

from bss_service.core.samples.large.columns import DTYPES, Columns

_PAGE: Final = 4096  # of the header, and where columns begin
_HEADER: Final = struct.Struct("<8sIIQQI")  # magic, format, whether sealed, samples, sequence number, checksum of data
_MAGIC: Final = b"bss-cols"
_FORMAT: Final = 1
_PART: Final = 2**24  # bytes gone through at a time
MOST_SAMPLES: Final = 2**40


class TornColumnsError(Exception):
    """A file of columns that is not as it was sealed, and why."""


class MappedColumns:
    """A file of columns. Whoever opens it must be the only one to write into it."""

    def __init__(self, file: int, samples: int, seq: int) -> None:
        self.seq = seq  # of the last journal entry that it has
        self._file, self._samples, self._sealed = file, samples, False
        self._map = mmap.mmap(file, 0)
        begins = _begins(samples)
        self.columns = Columns(
            **{name: np.frombuffer(self._map, dtype, samples, begins[name]) for name, dtype in DTYPES.items()}
        )

    @classmethod
    def create(cls, path: Path, samples: int) -> Self:
        """A new file of samples of which nothing is known.

        Its whole room on disk is taken at once: OSError where there is none, not a signal later. FileExistsError
        where there is a file already.
        """
        if not 1 <= samples <= MOST_SAMPLES:
            raise ValueError(f"samples must lie in [1, {MOST_SAMPLES}], got {samples}")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, size_of(samples))
            mapped = cls(file, samples, 0)
        except BaseException:
            os.close(file)
            path.unlink()
            raise
        mapped._write_header(0)
        return mapped

    @classmethod
    def open(cls, path: Path, samples: int) -> Self:
        """A file that was sealed. Reads all of it. Raises TornColumnsError, FileNotFoundError."""
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            seq, checksum = _checked(path, os.pread(file, _PAGE, 0), os.fstat(file).st_size, samples)
            mapped = cls(file, samples, seq)
        except BaseException:
            os.close(file)
            raise
        mapped._sealed = True
        if mapped._checksum() != checksum:
            mapped.close()
            raise TornColumnsError(f"{path.name}: the columns are not as they were sealed")
        return mapped

    def unseal(self) -> None:
        """Has to come before columns are written into: from here on the file counts as torn."""
        if self._sealed:
            self._write_header(0)
            self._sealed = False

    def seal(self, seq: int) -> None:
        """Bring all of it to disk, and say which journal entry is the last that it has, 0 ≤ seq < 2⁶⁴."""
        self._map.flush()
        self.seq = seq
        self._write_header(1, self._checksum())
        self._sealed = True

    def close(self) -> None:
        """Let go of the file as it is. The columns must not be used any more."""
        self.columns = Columns.empty(0)
        self._map.close()
        os.close(self._file)

    def _write_header(self, sealed: int, checksum: int = 0) -> None:
        header = _HEADER.pack(_MAGIC, _FORMAT, sealed, self._samples, self.seq, checksum)
        os.pwrite(self._file, header + struct.pack("<I", zlib.crc32(header)), 0)
        os.fsync(self._file)

    def _checksum(self) -> int:
        checksum = 0
        with memoryview(self._map) as data:
            for start in range(_PAGE, len(data), _PART):
                checksum = zlib.crc32(data[start : start + _PART], checksum)
        return checksum


def size_of(samples: int) -> int:
    """Bytes of a file."""
    return _PAGE + sum(_pages(dtype.itemsize * samples) for dtype in DTYPES.values())


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _begins(samples: int) -> dict[str, int]:
    """Where in the file each column begins."""
    begins, at = {}, _PAGE
    for name, dtype in DTYPES.items():
        begins[name] = at
        at += _pages(dtype.itemsize * samples)
    return begins


def _checked(path: Path, page: bytes, size: int, samples: int) -> tuple[int, int]:
    """Sequence number and checksum of the data, of a header that is right in itself and fits the job and the file."""
    header, rest = page[: _HEADER.size], page[_HEADER.size : _HEADER.size + 4]
    if len(rest) < 4 or struct.pack("<I", zlib.crc32(header)) != rest:
        raise TornColumnsError(f"{path.name}: the header is not as it was written")
    magic, version, sealed, there, seq, checksum = _HEADER.unpack(header)
    for what, got, expected in (
        ("file type", magic, _MAGIC),
        ("format", version, _FORMAT),
        ("number of samples", there, samples),
        ("size", size, size_of(samples)),
    ):
        if got != expected:
            raise TornColumnsError(f"{path.name}: the {what} must be {expected!r}, got {got!r}")
    if not sealed:
        raise TornColumnsError(f"{path.name}: it was being written into")
    return seq, checksum
