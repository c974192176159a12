"""Training runs on disk: what is trained, by which algorithm, and how far it has come."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, Self

from envs.research.executor import Executor, processes
from envs.research.files import written_whole
from envs.research.rollouts import Pool, Progress, unheard
from envs.research.training.gradient import Gradient
from envs.research.training.imitation import Imitation
from envs.research.training.search import SPACES, Search, SearchState
from envs.research.training.trials import Trials
from envs.tasks import Distribution, judged_tasks, training_tasks

SEARCHES: Final = {"search": "wide", "search-narrow": "narrow", "search-evidence": "evidence"}  # spaces by algorithm
GRADIENT: Final = ("ppo", "ppo-evidence", "sac")  # they learn from every step of their students
ALGORITHMS: Final = ("imitation", *GRADIENT, "trials", *SEARCHES)
CONFIG, STATE, POLICY = "config.json", "state", "policy.safetensors"


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """What a training run is; fixed for its life."""

    algorithm: str
    seed: int
    tasks: Distribution
    begin_with: str | None = None  # directory of the imitation whose network PPO goes on from

    @classmethod
    def of(cls, algorithm: str, seed: int, sources: Sequence[str], begin_with: Path | None) -> Self:
        """Raises ValueError naming what is wrong, FileNotFoundError for data or an imitation that isn't there."""
        if algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
        if begin_with is not None:
            if algorithm != "ppo":
                raise ValueError(f"begin-with goes with ppo alone, got {algorithm!r}")
            if cls.load(begin_with).algorithm != "imitation" or not (begin_with / STATE).exists():
                raise ValueError(f"begin-with must be the run of an imitation that has begun, got {begin_with}")
        tasks = judged_tasks() if algorithm == "trials" or algorithm.endswith("-evidence") else training_tasks()
        tasks = replace(tasks, sources=tuple(sources)) if sources else tasks
        _ = tasks.modalities  # of sources that can't be loaded or don't go together it says so here
        return cls(algorithm, seed, tasks, str(begin_with) if begin_with else None)

    def save(self, run: Path) -> None:
        """Raises FileExistsError where there already is a run."""
        run.mkdir(parents=True, exist_ok=True)
        if (run / CONFIG).exists():
            raise FileExistsError(f"{run} holds a run; go on with it by --resume, or choose another directory")
        (run / CONFIG).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def described(self, learner: "Learner") -> dict[str, Any]:
        """How the policy of a learner was trained, for its manifest."""
        return {**asdict(self), "iterations": learner.iteration, "intervals": learner.intervals}

    @classmethod
    def load(cls, run: Path) -> Self:
        """Raises FileNotFoundError where there is none."""
        if not (run / CONFIG).exists():
            raise FileNotFoundError(f"there is no run in {run}")
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
        self.state: SearchState | None = None
        self.intervals = 0

    @property
    def iteration(self) -> int:
        """Generations so far."""
        return self.state.generation if self.state else 0

    def advance(self) -> dict[str, float]:
        state = self.state or self.search.begin(self.runs)
        self.state, generation, intervals = self.search.advance(state, self.runs)
        self.intervals += intervals
        return {"gain": generation.gain, "best": generation.best, "population": generation.population}

    def artefact(self, name: str, training: dict[str, Any]) -> bytes:
        state = self.state
        if state is None:
            raise ValueError("a search has no policy before its first generation")
        return self.search.artefact(state, state.mean, name=name, training=training)

    def save(self, path: Path) -> None:
        assert self.state is not None
        self.state.save(path, self.intervals)

    def load(self, path: Path) -> None:
        self.state, self.intervals = SearchState.load(path)


@contextmanager
def open_learner(
    config: LearnerConfig, workers: int, progress: Progress = unheard, executor: Executor | None = None
) -> Iterator[Learner]:
    """The learner of a run that has not begun; its processes end with the context.

    progress: is told how far an iteration is. executor: where whole runs are made, in place of `workers` processes; an
    algorithm of GRADIENT makes none.
    """
    if config.algorithm in GRADIENT:
        learner = Gradient(config.algorithm, config.tasks, seed=config.seed, workers=workers, progress=progress)
        try:
            if config.begin_with:
                learner.begin_with(Path(config.begin_with) / STATE)
            yield learner
        finally:
            learner.close()
        return
    with nullcontext(executor) if executor else processes(workers) as chosen:
        runs = Pool(chosen, progress)
        if config.algorithm == "imitation":
            yield Imitation(config.tasks, seed=config.seed, pool=runs)
        elif config.algorithm == "trials":
            yield Trials(config.tasks, seed=config.seed, pool=runs)
        else:
            yield Searching(Search(SPACES[SEARCHES[config.algorithm]], config.tasks, config.seed), runs)


def write_policy(run: Path, config: LearnerConfig, learner: Learner) -> None:
    """Put the learner's policy into the run's directory, in one act."""
    with written_whole(run / POLICY) as temporary:
        temporary.write_bytes(learner.artefact(run.resolve().name, config.described(learner)))
