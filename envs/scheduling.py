"""`BalanceScheduling-v0` and `BalanceScheduling-Discrete-v0`: an episode is the training run of a student."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from bss_service.core.action import NAMED_ACTIONS, Action
from bss_service.core.arrays import Bool, Float32, Float64
from bss_service.policies.base import Choice
from envs.cohort import Cohort
from envs.spaces import action_space, discrete_action_space, observation_space
from envs.tasks import Distribution, family_names, held_out_tasks, lesson, training_tasks

TASKS: Final[dict[str, Callable[[], Distribution]]] = {"training": training_tasks, "held-out": held_out_tasks}


def box_choice(action: NDArray[Any]) -> Choice:
    """The choice of a Box action; components outside [−1, 1] are clipped."""
    return Choice(Action.from_vector(action))


def named_choice(action: NDArray[Any] | int) -> Choice:
    """The choice of a Discrete action. Raises ValueError for one that is not there."""
    if not 0 <= action < len(NAMED_ACTIONS):
        raise ValueError(f"action must lie in 0 to {len(NAMED_ACTIONS) - 1}, got {action}")
    return Choice(list(NAMED_ACTIONS.values())[int(action)])


def tasks_of(tasks: str | Distribution) -> Distribution:
    """A distribution by its name, the tasks of a family by its own, or a distribution as it is.

    Raises ValueError for another name.
    """
    if isinstance(tasks, Distribution):
        return tasks
    if tasks in TASKS:
        return TASKS[tasks]()
    families = family_names()
    if tasks in families:
        return Distribution((tasks,), ())
    raise ValueError(f"tasks must be one of {', '.join([*TASKS, *families])} or a Distribution, got {tasks!r}")


class BalanceScheduling(gymnasium.Env[Any, Any]):
    """Schedule the samples of a training run whose student learns in milliseconds.

    ## Description

    A student, a small late-fusion network, learns to tell classes by samples seen through two or more modalities, some
    of them with wrong labels or wrong pairs. An episode is its training run. A step is one interval of that run, an
    epoch: the action says how the interval's samples are drawn, by what the scheduler has measured of them so far. Then
    the student is trained on what was drawn, every sample is measured on the way, and the student is validated.

    Table, draws, observation and reward are those of the service (`bss_service.core`): a policy that was trained here
    can be served as it is. `ServedScheduling-v0` has the same spaces, with a trainer and a service behind them.

    ```python
    import gymnasium

    env = gymnasium.make("envs:BalanceScheduling-v0")
    observation, info = env.reset(seed=0)
    done = False
    while not done:
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        done = terminated or truncated
    ```

    ## Action Space

    `Box(-1, 1, (16,), float32)`: `bss_service.core.action.Action.to_vector`. Ranges are mapped linearly, choices lie in
    equal bins of [-1, 1], in their order. Numbers outside [-1, 1] are clipped; NaN is refused with a ValueError.

    A sample's score is κ_sim·similarity − κ_loss·loss + κ_weak·weakness + κ_stale·staleness; the higher, the
    likelier it is drawn.

    | Num | Component | Meaning | At -1 | At 1 |
    |---|---|---|---|---|
    | 0 | `kappa_similarity` | weight of the agreement of the modalities | -6 | 6 |
    | 1 | `kappa_loss` | weight of a low loss | -12 | 12 |
    | 2 | `kappa_weak` | weight of how far the weakest modality lags behind on the sample | -6 | 6 |
    | 3 | `kappa_stale` | weight of the time since the sample was measured | -6 | 6 |
    | 4 | `share` | share of the samples that may be drawn; not under `epoch` | 0.001 | 1 |
    | 5 | `floor` | added to every weight, whose mean is 1 | 0 | 1 |
    | 6 | `ema` | rate at which new measurements enter the moving averages; 0: not this time | 0 | 1 |
    | 7 | `belief` | samples whose label is right with less are disbelieved | 0 | 1 |
    | 8 | `left_out` | share of the disbelieved that is left out | 0 | 1 |
    | 9 | `probes` | share of the draws that look at samples left out, without training on them | 0 | 0.5 |
    | 10 | `pull` | how strongly heads are drawn towards what they said of a sample before | 0 | 3 |

    | Num | Component | Meaning | Choices |
    |---|---|---|---|
    | 11 | `link` | from scores to weights | `exponential`, `linear` |
    | 12 | `coverage` | all samples once; some, as often as it takes; drawn anew each time | `epoch`, `subset`, `draw` |
    | 13 | `rank_by` | by what `share` picks | `balance`, `first_balance`, `loss`, `weight` |
    | 14 | `keep` | from which end of that ranking | `top`, `bottom` |
    | 15 | `wrong_pairs` | what becomes of samples with a disbelieved modality | `keep`, `leave_out`, `mask` |

    ## Observation Space

    `Box(-1, 1, (50,), float32)`: `bss_service.core.observation.FIELDS`, in that order, where each is explained. What is
    not known yet is 0. Nothing in it tells which samples are clean, nor anything of the test samples.

    | Fields | Meaning | Min | Max |
    |---|---|---|---|
    | `progress` | share of the run that is over; epochs / (epochs + 30) where its length is not told | 0 | 1 |
    | `measured_share`, `staleness` | how many samples were measured, and how long ago | 0 | 1 |
    | `has_validation`, `validation_accuracy`, `validation_loss` | the latest report | 0 | 1 |
    | `validation_accuracy_strongest`, `validation_accuracy_weakest`, `validation_accuracy_gap`, \
`validation_balance` | its modalities | 0 | 1 |
    | `plateau` | reports since the best loss | 0 | 1 |
    | `gain_last`, `gain_before_last` | of the validation accuracy | -1 | 1 |
    | `training_probability`, `training_probability_strongest`, `training_probability_weakest`, \
`training_probability_q10`, `training_probability_q50`, `training_probability_q90` | of the label, in training | 0 | 1 |
    | `training_confident`, `training_conflict` | samples that are learnt, or on which modalities differ | 0 | 1 |
    | `head_gap_highest`, `head_gap_lowest`, `generalisation_gap`, `loss_gap` | training against validation | -1 | 1 |
    | `training_loss` | mean over the samples, l / (1 + l) | 0 | 1 |
    | `similarity_mean`, `similarity_deviation`, `similarity_q10`, `similarity_q50`, `similarity_q90` | of the latest \
measurements | -1 | 1 |
    | `loss_mean`, `loss_deviation`, `loss_q10`, `loss_q50`, `loss_q90` | of the same, min-max normalised | 0 | 1 |
    | `score_mean`, `score_deviation`, `similarity_loss_correlation` | of the same | -1 | 1 |
    | `previous_kappa_similarity`, `previous_kappa_loss`, `previous_share` | the action before | -1 | 1 |
    | `has_evidence`, `right_labels`, `rival_labels`, `certainty`, `disbelieved_labels`, `right_pairs`, \
`disbelieved_pairs` | how far labels and pairs are to be trusted, as `bss_service.core.evidence` judges | 0 | 1 |
    | `previous_belief` | the action before | 0 | 1 |

    ## Rewards

    The amount by which the interval's validation accuracy exceeds the best before, or 0. Over an episode the rewards
    add up to what the best checkpoint gains over the untrained student. An interval in which a loss stops being finite
    earns -1.0. With `twins` the reward is what the interval earns beyond that of a twin: the same student on the same
    task, who shuffles plainly. It says the same of an action with less noise; the run takes twice as long.

    ## Starting State

    `reset` draws a task and a student's weights from the environment's generator. Of a task are drawn: its source (a
    synthetic world made for it, or a part of a real set), the number of samples (250 to 600, to validate on 200 to
    600), the learning rate (0.05 to 0.2), the length (15 to 40 intervals; 15 % of the tasks don't tell it), and none,
    one or two kinds of harm to 10 to 50 % of the training samples each. Nothing is measured yet; the student has been
    validated once.

    ## Episode End

    - Truncation: the run is as long as its task says.
    - Termination: the student diverged, that is, a loss or similarity is not finite. The observation is the one before
      the interval again.

    ## Information

    `reset` gives `task`, the fields of `envs.tasks.Task` (of a family's task only `source`, `seed`, `intervals` and
    `horizon_known` mean anything). `step` gives `validation_accuracy` and `action`, the fields
    of the action as it was understood, unless the student diverged. At the end of an episode also
    `best_validation_accuracy`, and with `judged` the `test_accuracy` of the checkpoint that had it.

    ## Arguments

    | Argument | Default | Meaning |
    |---|---|---|
    | `tasks` | `"training"` | `"training"`: synthetic worlds with random labels or wrong pairs. `"randomised"`: wider \
ones, with every kind of harm, where all that makes a task up is drawn anew. `"held-out"`: real \
sets, and other harms besides; not to be trained on. Or the name of an installed task family, or an \
`envs.tasks.Distribution` |
    | `judged` | `False` | measure the test accuracy too |
    | `twins` | `False` | rewards are those beyond a twin's: same data, weights and order, shuffled plainly |
    | `render_mode` | `None` | `"rgb_array"`: `render` draws accuracies, scores and the last action, (300, 900, 3) |

    ## Vectorised environment

    `gymnasium.make_vec("BalanceScheduling-v0", num_envs=16)` trains the students side by side, several times as fast as
    one after the other (`benchmarks/results/env.md`). Place b is seeded with seed + b and goes through what a single
    environment of that seed goes through, bit for bit. `autoreset_mode` is NEXT_STEP or SAME_STEP. For
    stable-baselines3, and for more than one core: `envs.make_sb3`.

    ## Version History

    - v0: first version
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012  as Gymnasium has it

    _choice = staticmethod(box_choice)

    def __init__(
        self,
        tasks: str | Distribution = "training",
        *,
        judged: bool = False,
        twins: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or rgb_array, got {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space = observation_space()
        self.action_space = action_space()
        self._tasks = tasks_of(tasks)
        self._cohort = Cohort.of(self._tasks, 1, judged=judged, twins=twins)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32, dict[str, Any]]:
        """Draw a task and a student to train on it."""
        super().reset(seed=seed)
        task = self._tasks.draw(self.np_random)
        return self._cohort.start(0, task, lesson(task), self.np_random)

    def step(self, action: NDArray[Any]) -> tuple[Float32, float, bool, bool, dict[str, Any]]:
        """Train the student for one interval."""
        outcome = self._cohort.step([self._choice(action)])[0]
        assert outcome is not None
        return outcome.observation, outcome.reward, outcome.terminated, outcome.truncated, outcome.info

    def render(self) -> NDArray[np.uint8] | None:
        """The state of the run as an image (h, w, 3), or None without a render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() draws nothing without render_mode='rgb_array'")
            return None
        from envs.picture import picture  # matplotlib takes a while to import

        return picture(self._cohort.run(0))


class DiscreteBalanceScheduling(BalanceScheduling):
    """`BalanceScheduling-v0` with the named actions of `bss_service.core.action.NAMED_ACTIONS`.

    ## Action Space

    `Discrete(8)`; observation, rewards, starting state and end of an episode are those of `BalanceScheduling`.

    | Action | Name | Meaning |
    |---|---|---|
    | 0 | `uniform` | every sample once, in random order |
    | 1 | `balance` | the paper's: where the modalities agree and the loss is low, moderately |
    | 2 | `agreement` | the same, sharply, and agreement above all |
    | 3 | `low_loss` | where the loss is low, sharply |
    | 4 | `hard` | where the loss is high |
    | 5 | `anti` | the opposite of `balance` |
    | 6 | `evidence` | without the samples whose labels are probably wrong |
    | 7 | `evidence_pull` | the same, and heads are drawn towards what they said before |

    ## Version History

    - v0: first version
    """

    _choice = staticmethod(named_choice)

    def __init__(
        self,
        tasks: str | Distribution = "training",
        *,
        judged: bool = False,
        twins: bool = False,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(tasks, judged=judged, twins=twins, render_mode=render_mode)
        self.action_space = discrete_action_space()


class VectorBalanceScheduling(VectorEnv[Float32, NDArray[Any], Any]):
    """`BalanceScheduling-v0` for B students trained side by side; `gymnasium.make_vec` makes this one.

    Each place has a random generator of its own, seeded as Gymnasium does: place b with seed + b. With the same seed
    it goes through what the single environment goes through, bit for bit.
    """

    _choice = staticmethod(box_choice)
    _single_action_space: Callable[[], gymnasium.Space[Any]] = staticmethod(action_space)

    def __init__(
        self,
        num_envs: int = 1,
        tasks: str | Distribution = "training",
        *,
        judged: bool = False,
        twins: bool = False,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: None = None,
    ) -> None:
        """autoreset_mode: NEXT_STEP (Gymnasium's own) or SAME_STEP (stable-baselines3's)."""
        if render_mode is not None:
            raise ValueError(f"render_mode must be None, got {render_mode!r}: only a single environment draws")
        if autoreset_mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise ValueError(f"autoreset_mode must be NEXT_STEP or SAME_STEP, got {autoreset_mode}")
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": autoreset_mode, "render_modes": []}
        self.single_observation_space = observation_space()
        self.single_action_space = self._single_action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._tasks = tasks_of(tasks)
        self._cohort = Cohort.of(self._tasks, num_envs, judged=judged, twins=twins)
        self._same_step = autoreset_mode is AutoresetMode.SAME_STEP
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._over = np.zeros(num_envs, dtype=np.bool_)
        self._observations = np.zeros((num_envs, *self.single_observation_space.shape), np.float32)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32, dict[str, Any]]:
        """Draw a task for every place. seed: one for each place, or the first of them."""
        infos: dict[str, Any] = {}
        for b, own in enumerate(self._seeds(seed)):
            if own is not None:
                self._rngs[b] = gymnasium.utils.seeding.np_random(own)[0]
            infos = self._begin(b, infos)
        self._over[:] = False
        return self._observations.copy(), infos

    def step(self, actions: NDArray[Any]) -> tuple[Float32, Float64, Bool, Bool, dict[str, Any]]:
        """Train every student for one interval; where the run was over, begin the next instead (NEXT_STEP)."""
        outcomes = self._cohort.step(
            [None if over else self._choice(action) for over, action in zip(self._over, actions, strict=True)]
        )
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=np.bool_)
        infos: dict[str, Any] = {}
        for b, outcome in enumerate(outcomes):
            if outcome is None:
                infos = self._begin(b, infos)
                continue
            rewards[b], terminated[b], truncated[b] = outcome.reward, outcome.terminated, outcome.truncated
            self._observations[b] = outcome.observation
            info = outcome.info
            if self._same_step and (terminated[b] or truncated[b]):
                infos = self._begin(b, self._add_info(infos, {"final_obs": outcome.observation, "final_info": info}, b))
            else:
                infos = self._add_info(infos, info, b)
        self._over = np.zeros_like(terminated) if self._same_step else terminated | truncated
        return self._observations.copy(), rewards, terminated, truncated, infos

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        """The seed of each place; None: its generator goes on where it stands."""
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return range(int(seed), int(seed) + self.num_envs)
        if len(seed) != self.num_envs:
            raise ValueError(f"seed must hold one for each of {self.num_envs} environments, got {seed}")
        return seed

    def _begin(self, place: int, infos: dict[str, Any]) -> dict[str, Any]:
        rng = self._rngs[place]
        task = self._tasks.draw(rng)
        self._observations[place], info = self._cohort.start(place, task, lesson(task), rng)
        return self._add_info(infos, info, place)


class VectorDiscreteBalanceScheduling(VectorBalanceScheduling):
    """`BalanceScheduling-Discrete-v0` for B students trained side by side."""

    _choice = staticmethod(named_choice)
    _single_action_space = staticmethod(discrete_action_space)
