"""The decisions of one policy, of which the early ones may have left memory."""

from collections.abc import Callable, Sequence
from typing import overload

from bss_service.protocol.decisions import Decision


class Acts(Sequence[Decision]):
    """Decisions in order. Their number and the latest of them are at hand; for earlier ones all are read again."""

    def __init__(self, latest: Sequence[Decision], before: int, recall: Callable[[], Sequence[Decision]]) -> None:
        """before: how many came before the latest; recall: gives those."""
        self._latest = latest
        self._before = before
        self._recall = recall

    def __len__(self) -> int:
        return self._before + len(self._latest)

    @overload
    def __getitem__(self, index: int) -> Decision: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Decision]: ...

    def __getitem__(self, index: int | slice) -> Decision | Sequence[Decision]:
        if isinstance(index, slice):
            numbers = range(len(self))[index]
            if numbers and min(numbers[0], numbers[-1]) < self._before:
                self._read()
            return [self._latest[number - self._before] for number in numbers]
        number = range(len(self))[index]
        if number < self._before:
            self._read()
        return self._latest[number - self._before]

    def _read(self) -> None:
        """Have all at hand."""
        self._latest, self._before = [*self._recall(), *self._latest], 0
