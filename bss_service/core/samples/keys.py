"""Keys: the names by which a trainer knows its samples, and the index of each, in the order in which they came."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bss_service.core.arrays import Int64

KEY_BYTES: Final = 200  # of memory that a key takes beside its text, about


@dataclass(slots=True)
class Keys:
    """Names of samples, the first of which is that of sample 0; each keeps its index.

    A shallow copy stays as it is: it shares the names with this, which are only ever more.
    """

    nbytes: int = 0  # of memory, about
    _count: int = 0
    _names: list[str] = field(default_factory=list)  # by index
    _indices: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Sequence[str]) -> "Keys":
        """Those with the indices 0, 1, 2 …; raises ValueError naming one that comes twice."""
        keys = cls()
        keys.add(names)
        if len(keys._indices) < len(names):
            twice = next(name for index, name in enumerate(names) if keys._indices[name] != index)
            raise ValueError(f"keys must differ from one another, got {twice!r} twice")
        return keys

    def __len__(self) -> int:
        return self._count

    @property
    def names(self) -> list[str]:
        """All of them, by index."""
        return self._names[: self._count]

    def new(self, names: Iterable[str]) -> list[str]:
        """Those that have no index yet, each once, in their order."""
        return [name for name in dict.fromkeys(names) if name not in self._indices]

    def add(self, new: Sequence[str]) -> None:
        """Give the next indices to names that have none."""
        self._indices.update(zip(new, range(self._count, self._count + len(new)), strict=True))
        self._names += new
        self._count += len(new)
        self.nbytes += bytes_of(new)

    def indices(self, names: Sequence[str]) -> Int64:
        """The indices (k,) of names that have one."""
        return np.array([self._indices[name] for name in names], dtype=np.int64)


def bytes_of(names: Iterable[str]) -> int:
    """Memory that keys take, about."""
    return sum(KEY_BYTES + len(name.encode()) for name in names)
