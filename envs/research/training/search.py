"""A cross-entropy search for a linear policy: the baseline that needs no gradient.

A candidate is a matrix from features of the observation to components of the action before tanh. Every generation
draws candidates around the mean of the search, lets all of them train the same students on the same tasks, and moves
the mean and the deviations towards those that did best (Rubinstein 1999; Mannor, Rubinstein & Gat 2003).
"""

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from bss_service.core.action import COMPONENTS, Action
from bss_service.core.arrays import Float64
from bss_service.core.observation import FIELDS
from bss_service.policies import artefact
from envs.research.actors import of_artefact
from envs.research.export import manifest
from envs.research.files import written_whole
from envs.research.rollouts import Episode, Pool, Rollout
from envs.tasks import Distribution

NOISE: Final = -3.0  # logarithm of the deviation, before tanh, with which candidates and the policy act
FIRST_DEVIATIONS: Final = (0.3, 0.12)  # of the constants and of the weights of normalised features
LEAST_DEVIATION: Final = 0.02
ELITE: Final = 0.25
NORMALISER: Final = {"clip": 4.0, "epsilon": 1e-4}


@dataclass(frozen=True, slots=True)
class Space:
    """What a search is free to choose."""

    base: Action  # of the zero matrix, and of the components that are not free
    moves: tuple[str, ...]  # components of the action
    features: tuple[str, ...]  # fields of the observation
    # Where the search begins, if not at the zero matrix: (move, feature or "constant") to weight.
    first: tuple[tuple[str, str, float], ...] = ()

    def start(self) -> Float64:
        """The matrix (moves, 1 + features) that the search begins with."""
        matrix = np.zeros((len(self.moves), 1 + len(self.features)))
        for move, feature, weight in self.first:
            matrix[self.moves.index(move), ("constant", *self.features).index(feature)] = weight
        return matrix

    def policy(
        self, matrix: Float64, mean: Float64, variance: Float64, *, name: str, training: dict[str, Any] | None = None
    ) -> bytes:
        """The policy of a matrix (moves, 1 + features), constant first. mean, variance: (D,), of observations."""
        weight = np.zeros((len(COMPONENTS), len(FIELDS)))
        bias = np.arctanh(np.clip(self.base.to_vector(), -0.999, 0.999)).astype(np.float64)
        columns = [FIELDS.index(name) for name in self.features]
        for row, move in zip(matrix, self.moves, strict=True):
            weight[COMPONENTS.index(move), columns] = row[1:]
            bias[COMPONENTS.index(move)] += row[0]
        return artefact.write(
            {**manifest(name, "squashed_gaussian", [], "tanh", NORMALISER), "training": training or {}},
            {
                "mean.weight": weight,
                "mean.bias": bias,
                "log_std.weight": np.zeros_like(weight),
                "log_std.bias": np.full(len(bias), NOISE),
                "normaliser.mean": mean,
                "normaliser.variance": variance,
            },
        )


# The linear policy that this project began with: few numbers, two coefficients, draws with replacement.
NARROW: Final = Space(
    base=Action(ema=0.5, coverage="draw"),
    moves=("kappa_similarity", "kappa_loss"),
    features=(
        "progress",
        "validation_accuracy",
        "training_probability",
        "generalisation_gap",
        "loss_gap",
        "validation_accuracy_gap",
        "similarity_mean",
        "similarity_deviation",
        "loss_q10",
        "loss_q50",
        "loss_q90",
    ),
)
# Which samples come is decided by a share kept of a ranking that blends similarity, loss and the weaker head.
WIDE: Final = Space(
    base=Action(ema=0.5, share=0.97, coverage="subset", rank_by="weight"),
    moves=("kappa_similarity", "kappa_loss", "kappa_weak", "share", "floor"),
    features=(
        "progress",
        "measured_share",
        "validation_accuracy",
        "validation_accuracy_gap",
        "validation_balance",
        "plateau",
        "gain_last",
        "training_probability",
        "training_probability_q10",
        "training_probability_q90",
        "training_confident",
        "training_conflict",
        "head_gap_highest",
        "head_gap_lowest",
        "loss_gap",
        "similarity_mean",
        "similarity_deviation",
        "similarity_q10",
        "loss_q50",
        "loss_q90",
        "loss_deviation",
        "similarity_loss_correlation",
        "previous_share",
    ),
)
# The rule of `evidence`, of which is free: from which belief on, when, how much of the disbelieved is left out, the
# probes, and the pull. It begins with nothing left out until a sixth of the run is over, all of it from a quarter on,
# and half of the strongest pull.
JUDGED: Final = Space(
    base=Action(belief=0.45, left_out=0.5, probes=0.12, pull=1.5),
    moves=("belief", "left_out", "probes", "pull"),
    features=("progress", "validation_accuracy", "generalisation_gap", "right_labels", "disbelieved_labels"),
    first=(("left_out", "constant", 4.7), ("left_out", "progress", 6.0)),
)
SPACES: Final = {"narrow": NARROW, "wide": WIDE, "evidence": JUDGED}


@dataclass(frozen=True, slots=True)
class SearchState:
    """Where a search stands; everything that the next generation depends on, but for its arguments."""

    generation: int
    mean: Float64  # (moves, 1 + features): constant first
    deviation: Float64  # of the same shape
    normaliser_mean: Float64  # (D,)
    normaliser_variance: Float64  # (D,)

    def save(self, path: Path, intervals: int) -> None:
        """Write in one act, so that a search that is interrupted leaves a whole state."""
        arrays = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, intervals=np.array(intervals), **arrays)

    @classmethod
    def load(cls, path: Path) -> tuple[Self, int]:
        """What `save` wrote: the state, and the intervals trained so far."""
        with np.load(path, allow_pickle=False) as arrays:
            values: dict[str, Any] = {f.name: arrays[f.name] for f in fields(cls)}
            intervals = int(arrays["intervals"])
        return cls(**{**values, "generation": int(values["generation"])}), intervals


@dataclass(frozen=True, slots=True)
class Generation:
    """How the candidates of a generation did, in points of test accuracy over where the search began."""

    number: int
    gain: float  # of the mean that the search began the generation with
    best: float
    population: float  # mean of all


@dataclass(frozen=True, slots=True)
class Search:
    """The arguments of a search."""

    space: Space
    tasks: Distribution
    seed: int
    population: int = 32
    tasks_each: int = 12  # tasks a generation

    def begin(self, pool: Pool) -> SearchState:
        """The state before the first generation; the normaliser is taken from runs under the zero matrix."""
        first = self.space.start()
        constant, weight = FIRST_DEVIATIONS
        deviation = np.full(first.shape, weight)
        deviation[:, 0] = constant
        state = SearchState(0, first, deviation, np.zeros(len(FIELDS)), np.ones(len(FIELDS)))
        results = pool(self._episodes([np.zeros_like(first)], state))
        seen = np.concatenate([result.observations for result in results]).astype(np.float64)
        return replace(state, normaliser_mean=seen.mean(axis=0), normaliser_variance=seen.var(axis=0))

    def advance(self, state: SearchState, pool: Pool) -> tuple[SearchState, Generation, int]:
        """One generation; also the number of intervals that it trained."""
        rng = np.random.default_rng([self.seed, state.generation, 0])
        drawn = state.mean + state.deviation * rng.standard_normal((self.population, *state.mean.shape))
        candidates = [*drawn, state.mean, self.space.start()]
        results = pool(self._episodes(candidates, replace(state, generation=state.generation + 1)))
        scores = self._scores(results)
        elite = np.argsort(-scores[: self.population], kind="stable")[: round(ELITE * self.population)]
        weights = np.log(len(elite) + 0.5) - np.log(np.arange(1, len(elite) + 1))  # the best count most
        weights /= weights.sum()
        towards = np.tensordot(weights, drawn[elite], axes=1)
        spread = np.sqrt(np.tensordot(weights, (drawn[elite] - state.mean) ** 2, axes=1))
        following = replace(
            state,
            generation=state.generation + 1,
            mean=0.5 * state.mean + 0.5 * towards,
            deviation=np.maximum(0.8 * state.deviation + 0.2 * spread, LEAST_DEVIATION),
        )
        gains = 100 * (scores - scores[-1])
        generation = Generation(
            following.generation, gains[-2], gains[: self.population].max(), gains[: self.population].mean()
        )
        return following, generation, sum(len(result.observations) for result in results)

    def artefact(
        self, state: SearchState, matrix: Float64, *, name: str = "search", training: dict[str, Any] | None = None
    ) -> bytes:
        """The policy of a matrix (moves, 1 + features)."""
        moments = state.normaliser_mean, state.normaliser_variance
        return self.space.policy(matrix, *moments, name=name, training=training)

    def _episodes(self, candidates: list[Float64], state: SearchState) -> list[Episode]:
        """Every candidate on every task of the generation, task by task."""
        rng = np.random.default_rng([self.seed, state.generation, 1])
        tasks = [(self.tasks.draw(rng), int(rng.integers(2**63))) for _ in range(self.tasks_each)]
        actors = [partial(of_artefact, self.artefact(state, matrix)) for matrix in candidates]
        return [Episode(task, seed, actor) for task, seed in tasks for actor in actors]

    def _scores(self, results: list[Rollout]) -> Float64:
        """Mean test accuracy of each candidate's best checkpoints over the tasks.

        Where a policy acts no test set is to be had; in a simulation it is as much a part of the world as any other,
        and what chose the checkpoint flatters it.
        """
        accuracies = np.array([result.test_accuracy for result in results])
        means: Float64 = accuracies.reshape(self.tasks_each, -1).mean(axis=0)
        return means
