"""Gymnasium environments in which an episode is a training run.

Its modules are internal but for the names below and `envs.research.export`, from models to artefacts.

They are registered by `import envs`, or by the id: `gymnasium.make("envs:BalanceScheduling-v0")`. Gymnasium 1.0 gave up
the entry point by which it found environments of other packages; a module in the id is what took its place. A name is
imported when it is first asked for, so that registering needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import gymnasium

_HOMES: Final = {
    "BalanceScheduling": "envs.scheduling",
    "DiscreteBalanceScheduling": "envs.scheduling",
    "VectorBalanceScheduling": "envs.scheduling",
    "VectorDiscreteBalanceScheduling": "envs.scheduling",
    "ServedScheduling": "envs.served",
    "Distribution": "envs.tasks",
    "Family": "envs.tasks",
    "Lesson": "envs.tasks",
    "Part": "envs.tasks",
    "Task": "envs.tasks",
    "held_out_tasks": "envs.tasks",
    "training_tasks": "envs.tasks",
    "make_sb3": "envs.workers",
}
__all__ = sorted(_HOMES)

gymnasium.register(
    "BalanceScheduling-v0",
    entry_point="envs.scheduling:BalanceScheduling",
    vector_entry_point="envs.scheduling:VectorBalanceScheduling",
)
gymnasium.register(
    "BalanceScheduling-Discrete-v0",
    entry_point="envs.scheduling:DiscreteBalanceScheduling",
    vector_entry_point="envs.scheduling:VectorDiscreteBalanceScheduling",
)
gymnasium.register("ServedScheduling-v0", entry_point="envs.served:ServedScheduling")

if TYPE_CHECKING:  # the same names, for type checkers and editors
    from envs.scheduling import BalanceScheduling as BalanceScheduling
    from envs.scheduling import DiscreteBalanceScheduling as DiscreteBalanceScheduling
    from envs.scheduling import VectorBalanceScheduling as VectorBalanceScheduling
    from envs.scheduling import VectorDiscreteBalanceScheduling as VectorDiscreteBalanceScheduling
    from envs.served import ServedScheduling as ServedScheduling
    from envs.tasks import Distribution as Distribution
    from envs.tasks import Family as Family
    from envs.tasks import Lesson as Lesson
    from envs.tasks import Part as Part
    from envs.tasks import Task as Task
    from envs.tasks import held_out_tasks as held_out_tasks
    from envs.tasks import training_tasks as training_tasks
    from envs.workers import make_sb3 as make_sb3
else:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
