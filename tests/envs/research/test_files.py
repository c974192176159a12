"""Results by cell: there whole or not at all, on a disk or in a store that fsspec reaches."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from envs.research.files import Results, Storage

CELLS = [{"task": "emoji", "seed": seed} for seed in range(3)]


@pytest.fixture(params=["path", "url"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(f"memory://{uuid4().hex}/runs" if request.param == "url" else str(tmp_path / "some [runs]"))


def seeds(places: list[int]) -> Iterator[tuple[int, int]]:
    """The latest first."""
    yield from ((place, CELLS[place]["seed"] * 10) for place in reversed(places))  # type: ignore[operator]


def nothing(places: list[int]) -> Iterable[tuple[int, int]]:
    assert not places
    return ()


def test_each_cell_is_computed_once_and_told_in_its_place(storage: Storage) -> None:
    assert Results(storage).complete([*CELLS, CELLS[0]], seeds) == [0, 10, 20, 0]
    assert Results(Storage(storage.where)).complete(CELLS, nothing) == [0, 10, 20]
    assert len(storage.names()) == 3


def test_what_has_come_before_an_interruption_stays(storage: Storage) -> None:
    def interrupted(places: list[int]) -> Iterator[tuple[int, int]]:
        yield next(seeds(places))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Results(storage).complete(CELLS, interrupted)
    asked: list[int] = []

    def rest(places: list[int]) -> Iterator[tuple[int, int]]:
        asked.extend(places)
        return seeds(places)

    assert Results(storage).complete(CELLS, rest) == [0, 10, 20]
    assert sorted(asked) == [0, 1]


def test_what_was_cut_off_is_computed_again(storage: Storage) -> None:
    Results(storage).complete(CELLS[:1], seeds)
    [name] = storage.names()
    storage.write(name, storage.read(name)[:-3])
    storage.write(f"{name}.part", b"of a write that was interrupted")
    assert storage.names() == {name}
    assert Results(storage).complete(CELLS[:1], seeds) == [0]
    assert Results(storage).complete(CELLS[:1], nothing) == [0]


def test_a_url_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        Storage("nowhere://runs")
