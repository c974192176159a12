"""Columns in a file: as they were sealed, or refused."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bss_service.core.samples.large.columns import Columns
from bss_service.journal.mapped import MappedColumns, TornColumnsError, size_of

N = 10_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a sealed file in which one sample was measured."""
    path = tmp_path / "job.columns"
    mapped = MappedColumns.create(path, N)
    measure(mapped.columns)
    mapped.seal(7)
    mapped.close()
    return path


def measure(columns: Columns) -> None:
    ones = np.ones(1, np.float32)
    columns.measure(np.array([N - 1]), np.array([4]), ones, ones, 1.0)


def test_what_was_sealed_is_there_again(path: Path) -> None:
    mapped = MappedColumns.open(path, N)
    assert mapped.seq == 7
    assert np.flatnonzero(mapped.columns.stamp).tolist() == [N - 1]
    assert mapped.columns.stamp[-1] == 5
    assert path.stat().st_size == size_of(N) < 8 * N + 5 * 4096


def test_a_file_that_was_being_written_into_is_refused_until_it_is_sealed_again(path: Path) -> None:
    mapped = MappedColumns.open(path, N)
    mapped.unseal()
    measure(mapped.columns)
    with pytest.raises(TornColumnsError, match="it was being written into"):
        MappedColumns.open(path, N)
    mapped.seal(8)
    assert MappedColumns.open(path, N).seq == 8


def test_a_new_file_is_refused_before_it_is_sealed(tmp_path: Path) -> None:
    MappedColumns.create(tmp_path / "new", N)
    with pytest.raises(TornColumnsError, match="it was being written into"):
        MappedColumns.open(tmp_path / "new", N)


def test_a_writer_that_is_killed_leaves_a_file_that_is_refused(path: Path) -> None:
    writes = (
        "import os, signal, sys, pathlib; from bss_service.journal.mapped import MappedColumns\n"
        f"mapped = MappedColumns.open(pathlib.Path(sys.argv[1]), {N}); mapped.unseal()\n"
        "mapped.columns.stamp[5] = 3; os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", writes, str(path)]).returncode == -signal.SIGKILL
    with pytest.raises(TornColumnsError):
        MappedColumns.open(path, N)


@pytest.mark.parametrize("at", [0, 8, 12, 16, 24, 32, 36, 39, 4096, size_of(N) - 1])
def test_a_byte_that_rotted_is_found(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(TornColumnsError):
        MappedColumns.open(path, N)


@pytest.mark.parametrize("size", [0, 10, 4096, size_of(N) - 1, size_of(N) + 1])
def test_a_file_of_another_size_is_refused(path: Path, size: int) -> None:
    os.truncate(path, size)
    with pytest.raises(TornColumnsError):
        MappedColumns.open(path, N)


def test_a_file_of_another_job_is_refused(path: Path) -> None:
    with pytest.raises(TornColumnsError, match=f"number of samples must be {N + 1}, got {N}"):
        MappedColumns.open(path, N + 1)


def test_a_link_is_not_followed(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        MappedColumns.open(link, N)


def test_a_file_that_is_there_is_not_written_over(path: Path) -> None:
    with pytest.raises(FileExistsError):
        MappedColumns.create(path, N)
    assert MappedColumns.open(path, N).seq == 7


def test_without_room_on_disk_there_is_an_error_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        MappedColumns.create(tmp_path / "new", N)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("samples", [0, -1, 2**40 + 1])
def test_so_many_samples_are_refused(tmp_path: Path, samples: int) -> None:
    with pytest.raises(ValueError, match=f"samples must lie in .* got {samples}"):
        MappedColumns.create(tmp_path / "new", samples)
