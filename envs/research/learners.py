"""Training runs on disk: what is trained, by which algorithm, and how far it has come."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import numpy as np

from bss_service import artefact
from envs.research.gradient import Gradient
from envs.research.imitation import Imitation
from envs.research.rollouts import Pool, pool
from envs.research.search import SPACES, Search, State
from envs.tasks import Distribution

ALGORITHMS: Final = ("imitation", "ppo", "sac", "search", "search-narrow")
CONFIG, STATE = "config.json", "state"


@dataclass(frozen=True, slots=True)
class Config:
    """What a training run is; fixed for its life."""

    algorithm: str
    seed: int
    tasks: Distribution
    begin_with: str | None = None  # directory of the imitation whose network PPO goes on from

    def save(self, run: Path) -> None:
        """Raises FileExistsError where there already is a run."""
        run.mkdir(parents=True, exist_ok=True)
        with (run / CONFIG).open("x") as file:
            json.dump(asdict(self), file, indent=2)

    def described(self, learner: "Learner") -> dict[str, Any]:
        """How the policy of a learner was trained, for its manifest."""
        return {**asdict(self), "iterations": learner.iteration, "intervals": learner.intervals}

    @classmethod
    def load(cls, run: Path) -> Self:
        """Raises FileNotFoundError where there is none."""
        fields = json.loads((run / CONFIG).read_text())
        tasks: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields["tasks"].items()}
        return cls(**{**fields, "tasks": Distribution(**tasks)})


class Learner(Protocol):
    """An algorithm at work on a run."""

    @property
    def iteration(self) -> int:
        """Iterations so far."""
        ...

    @property
    def intervals(self) -> int:
        """Intervals trained so far, over all students."""
        ...

    def advance(self) -> dict[str, float]:
        """One iteration; figures to show."""
        ...

    def artefact(self, name: str, training: dict[str, Any]) -> bytes:
        """The policy as it is now."""
        ...

    def save(self, path: Path) -> None:
        """Write everything that the next iteration depends on, in one act."""
        ...

    def load(self, path: Path) -> None:
        """What `save` wrote."""
        ...


class Searching:
    """A cross-entropy search as a learner."""

    def __init__(self, search: Search, runs: Pool) -> None:
        self.search, self.runs = search, runs
        self.state: State | None = None
        self.intervals = 0

    @property
    def iteration(self) -> int:
        """Generations so far."""
        return self.state.generation if self.state else 0

    def advance(self) -> dict[str, float]:
        state = self.state or self.search.begin(self.runs)
        self.state, told, intervals = self.search.advance(state, self.runs)
        self.intervals += intervals
        return {"gain": told.gain, "best": told.best, "population": told.population}

    def artefact(self, name: str, training: dict[str, Any]) -> bytes:
        state = self.state
        if state is None:
            raise ValueError("a search has no policy before its first generation")
        return self.search.artefact(state, state.mean, name=name, training=training)

    def save(self, path: Path) -> None:
        assert self.state is not None
        self.state.save(path, self.intervals)

    def load(self, path: Path) -> None:
        self.state, self.intervals = State.load(path)


@contextmanager
def open_learner(config: Config, workers: int) -> Iterator[Learner]:
    """The learner of a run that has not begun; its processes end with the context."""
    if config.algorithm in ("ppo", "sac"):
        learner = Gradient(config.algorithm, config.tasks, seed=config.seed, workers=workers)
        try:
            if config.begin_with:
                learner.begin_with(Path(config.begin_with) / STATE)
            yield learner
        finally:
            learner.close()
        return
    with pool(workers) as runs:
        if config.algorithm == "imitation":
            yield Imitation(config.tasks, seed=config.seed, pool=runs)
        else:
            space = SPACES["narrow" if config.algorithm == "search-narrow" else "wide"]
            yield Searching(Search(space, config.tasks, config.seed), runs)


def with_deviation(data: bytes, deviation: float) -> bytes:
    """The artefact with another deviation, the same for every component, in place of the one that explored."""
    read = artefact.read(data)
    tensors = {name: np.array(t) for name, t in read.tensors.items()}
    constant = "log_std" if "log_std" in tensors else "log_std.bias"
    if constant not in tensors:
        raise ValueError("deviation can't be set: the policy picks one of named actions")
    tensors[constant][:] = np.log(deviation)
    if "log_std.weight" in tensors:
        tensors["log_std.weight"][:] = 0
    return artefact.write(read.manifest.model_dump(exclude={"sha256"}), tensors)
