"""Where cells are computed: a function of plain values, many at a time, and each result as soon as it is there.

    with processes(workers=2) as executor:
        for place, result in executor.map(train, cells):
            keep(cells[place], result)

What comes of a cell depends on the cell alone. Which process computes it, beside which others and in which order they
end, changes nothing: each takes one thread, and everything random is to follow from what is in the cell.
"""

from envs.research.executor.base import Executor, ExecutorError
from envs.research.executor.local import processes

__all__ = ["Executor", "ExecutorError", "processes"]
