"""A policy by trials: a surface of gains over its settings, and where that is highest (Box & Wilson 1951).

A trial is a run with settings drawn at random, and what it gains over its twin: the same student on the same task,
which shuffles plainly. Every trial tells something of every setting, where a search must make out differences between
candidates that are smaller than its noise. The surface is quadratic in each setting, its slope linear in the context:
a few fields of the observation, early in the run. So the settings that it favours are linear in the context.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from bss_service.core.arrays import Float64
from bss_service.core.observation import FIELDS
from envs.research.actors import of_artefact, of_name
from envs.research.files import written_whole
from envs.research.rollouts import Episode, Pool, Rollout
from envs.research.training.search import JUDGED, NORMALISER
from envs.tasks import Distribution

# How far each setting of JUDGED is moved to either side, before tanh: beliefs from 0.23 to 0.7, a beginning between a
# fourteenth and a third of the run, probes from 0.04 to 0.25, and nearly all that there is of the pull.
RANGES: Final = {"belief": 0.5, "left_out": 2.0, "probes": 0.6, "pull": 1.5}
CONTEXT: Final = ("validation_accuracy", "right_labels")
CONTEXT_AT: Final = 0.25  # of the run
BEGIN: Final = 12  # runs that the normaliser is taken from
LEAST_CURVATURE: Final = 0.25  # points between the middle of a range and its ends: flatter is taken for this
PLAIN: Final = partial(of_name, "uniform", {})
RIDGE: Final = 100.0  # of what context does to a slope, which is small beside the noise of a trial


@dataclass(frozen=True, slots=True)
class Surface:
    """The gain in points of settings u in [−1, 1]: mean + (slope + interaction·x)·u + curvature·u², x the context."""

    mean: float
    slope: Float64  # (moves,)
    curvature: Float64  # (moves,)
    interaction: Float64  # (moves, context)

    @classmethod
    def fitted(cls, settings: Float64, context: Float64, gains: Float64) -> "Surface":
        """Least squares. settings: (k, moves); context: (k, c), 0 on average; gains: (k,) in points."""
        moves, fields = settings.shape[1], context.shape[1]
        crossed = (settings[:, :, None] * context[:, None]).reshape(len(settings), -1)
        design = np.concatenate([np.ones((len(gains), 1)), settings, settings**2, context, crossed], axis=1)
        penalty = np.zeros(design.shape[1])
        penalty[-moves * fields :] = RIDGE
        found = np.linalg.solve(design.T @ design + np.diag(penalty + 1e-9), design.T @ gains)
        slope, curvature = found[1 : 1 + moves], found[1 + moves : 1 + 2 * moves]
        return cls(float(found[0]), slope, curvature, found[-moves * fields :].reshape(moves, fields))

    def best(self) -> tuple[Float64, Float64]:
        """Where it is highest, within the range of the trials: settings (moves,), and what context adds, (moves, c)."""
        bend = 2 * np.maximum(-self.curvature, LEAST_CURVATURE)
        return np.clip(self.slope / bend, -1, 1), self.interaction / bend[:, None]

    def at(self, settings: Float64) -> float:
        """The gain of settings (moves,) in the mean context."""
        return float(self.mean + self.slope @ settings + self.curvature @ settings**2)


class Trials:
    """All trials so far, and the policy that they speak for."""

    def __init__(
        self, tasks: Distribution, *, seed: int, pool: Pool, tasks_each: int = 64, trials_each: int = 3
    ) -> None:
        """tasks_each: tasks an iteration; trials_each: trials a task."""
        self.tasks, self.seed, self.pool = tasks, seed, pool
        self.tasks_each, self.trials_each = tasks_each, trials_each
        self.iteration = 0
        self.intervals = 0
        self.moments = np.zeros((2, len(FIELDS)))  # mean and variance of observations
        self.settings = np.zeros((0, len(RANGES)))
        self.context = np.zeros((0, len(CONTEXT)))
        self.gains = np.zeros(0)

    def advance(self) -> dict[str, float]:
        """One iteration; figures to show, in points over plain shuffling."""
        if self.iteration == 0:
            self._begin()
        rng = np.random.default_rng([self.seed, self.iteration])
        settings = rng.uniform(-1, 1, (self.tasks_each, self.trials_each, len(RANGES)))
        episodes = []
        for of_task in settings:
            task, seed = self.tasks.draw(rng), int(rng.integers(2**63))
            episodes.append(Episode(task, seed, PLAIN))
            episodes += [Episode(task, seed, partial(of_artefact, self._policy(own))) for own in of_task]
        runs = self.pool(episodes)
        self.intervals += sum(len(run.observations) for run in runs)
        accuracies = 100 * np.array([run.test_accuracy for run in runs]).reshape(self.tasks_each, -1)
        gains = accuracies[:, 1:] - accuracies[:, :1]
        tried = [run for k, run in enumerate(runs) if k % (1 + self.trials_each)]
        self.settings = np.concatenate([self.settings, settings.reshape(-1, len(RANGES))])
        self.context = np.concatenate([self.context, [self._context(run) for run in tried]])
        self.gains = np.concatenate([self.gains, gains.reshape(-1)])
        self.iteration += 1
        surface = self.surface()
        best, _ = surface.best()
        shown = {name: float(value) for name, value in zip(RANGES, best, strict=True)}
        return {
            "gain": float(gains.mean()),
            "at_start": surface.at(np.zeros(len(RANGES))),
            "at_best": surface.at(best),
            **shown,
        }

    def surface(self) -> Surface:
        """What all trials so far say. Raises ValueError before the first iteration."""
        if not len(self.gains):
            raise ValueError("there is no surface before the first trial")
        return Surface.fitted(self.settings, self.context - self.context.mean(axis=0), self.gains)

    def artefact(self, name: str, training: dict[str, Any]) -> bytes:
        """The policy where the surface is highest."""
        surface = self.surface()
        settings, weights = surface.best()
        settings = settings - weights @ self.context.mean(axis=0)  # context is 0 on average only on the surface
        known = {"gain_at_start": surface.at(np.zeros(len(RANGES))), "gain_at_best": surface.at(surface.best()[0])}
        return self._policy(settings, weights, name=name, training={**training, "trials": len(self.gains), **known})

    def save(self, path: Path) -> None:
        """Write everything that the next iteration depends on, in one act."""
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                count=np.array([self.iteration, self.intervals]),
                moments=self.moments,
                settings=self.settings,
                context=self.context,
                gains=self.gains,
            )

    def load(self, path: Path) -> None:
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            self.iteration, self.intervals = map(int, arrays["count"])
            self.moments, self.settings = arrays["moments"], arrays["settings"]
            self.context, self.gains = arrays["context"], arrays["gains"]

    def _begin(self) -> None:
        """The normaliser, of runs that shuffle plainly."""
        rng = np.random.default_rng([self.seed, 0, 1])
        runs = self.pool([Episode(self.tasks.draw(rng), int(rng.integers(2**63)), PLAIN) for _ in range(BEGIN)])
        self.intervals += sum(len(run.observations) for run in runs)
        seen = np.concatenate([run.observations for run in runs]).astype(np.float64)
        self.moments = np.stack([seen.mean(axis=0), seen.var(axis=0)])

    def _context(self, run: Rollout) -> Float64:
        """What a policy sees of the context in a run, (c,), normalised."""
        seen = run.observations[round(CONTEXT_AT * (len(run.observations) - 1))]
        mean, variance = self.moments
        normalised = np.clip(
            (seen - mean) / np.sqrt(variance + NORMALISER["epsilon"]), -NORMALISER["clip"], NORMALISER["clip"]
        )
        chosen: Float64 = normalised[[FIELDS.index(name) for name in CONTEXT]].astype(np.float64)
        return chosen

    def _policy(
        self,
        settings: Float64,
        weights: Float64 | None = None,
        *,
        name: str = "trial",
        training: dict[str, Any] | None = None,
    ) -> bytes:
        """The policy of settings (moves,) in [−1, 1], and of what context adds to them, (moves, c)."""
        matrix = JUDGED.start()
        scale = np.array(list(RANGES.values()))
        matrix[:, 0] += scale * settings
        if weights is not None:
            matrix[:, [1 + JUDGED.features.index(name) for name in CONTEXT]] += scale[:, None] * weights
        return JUDGED.policy(matrix, *self.moments, name=name, training=training)
