"""`ServedScheduling-v0`: an episode is a live training run, scheduled through the service."""

import logging
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray
from pydantic import SecretStr

from bss_service.core.action import Action
from bss_service.core.arrays import Float32
from bss_service.core.observation import SCHEMA_HASH
from bss_service.policies.builtin.external import EXTERNAL
from bss_service.protocol.actions import ObservationAnswer
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JobState
from bss_service.protocol.policies import PolicySpec
from bss_service.testing import ServiceProcess
from envs.live_run import LiveRun
from envs.run import REWARD
from envs.spaces import action_space, observation_space
from trainer_client.client import SchedulerClient
from trainer_client.errors import ConflictError, SchedulerError
from trainer_client.reference.data import Dataset, load
from trainer_client.reference.training import TrainingConfig, job_spec

log = logging.getLogger(__name__)

DRIVEN: Final = PolicySpec(name=EXTERNAL)
PATIENCE: Final = 3600.0  # seconds that a trainer of this environment's own waits for an action
ANY: Final = Action(kappa_similarity=1, kappa_loss=1, kappa_weak=1, belief=1)  # needs all that any action may
OWN_POLL: Final = 0.2  # seconds between two looks at whether a run has ended; an action that is awaited is seen at once
JOINED_POLL: Final = 2.0


class ServedScheduling(gymnasium.Env[Float32, NDArray[Any]]):
    """Schedule the samples of a live training run, through the service that will serve the trained policy.

    ## Description

    A trainer trains a network on several modalities and asks the scheduler service which samples come next. A step of
    the environment is one interval of that run: the action says how the interval's samples are drawn, and the step
    returns when the trainer has trained on them, reported its validation, and asks for the next interval. The trainer
    is held meanwhile, so no interval begins without the action that was chosen for it.

    Without `job`, each episode is a new run of the reference trainer (`trainer_client.reference`) in a thread of this
    process, on one CPU thread; without `url` too, the service is started on a free loopback port with the first
    `reset` and ended by `close`. With the same seed and actions such a run goes through the same states.

    With `url` and `job`, the environment joins a job whose trainer runs elsewhere. It never starts one. The job's
    policy becomes `external` with its next interval, and `close` gives back the policy that it had.

    ```python
    import gymnasium

    env = gymnasium.make("envs:ServedScheduling-v0", data="emoji", epochs=5)
    observation, info = env.reset(seed=0)
    done = False
    while not done:
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        done = terminated or truncated
    env.close()
    ```

    ## Action Space

    `Box(-1, 1, (DIMENSION,), float32)`, as of `BalanceScheduling-v0`, which explains it: `Action.to_vector` of
    `bss_service.core.action`. Numbers outside are clipped.

    ## Observation Space

    `Box(-1, 1, (len(FIELDS),), float32)`, as of `BalanceScheduling-v0`: `bss_service.core.observation.FIELDS`, in that
    order. It is, bit for bit, the observation that the service logs with the decision.

    ## Rewards

    The reward that the service gives to the interval's decision. In a run of its own that is what
    `BalanceScheduling-v0` gives, the amount by which the validation accuracy exceeds the best before: over an episode
    these add up to what the best checkpoint gains over the untrained network. In a job that is joined it is what the
    job's `reward` says.

    It is 0.0, and `info["reward"]` is None, where no validation report tells: where a trainer does not report before
    the first interval or at the end of each. The reference trainer reports once an epoch, so with a shorter `interval`
    the last interval of an epoch alone earns.

    ## Info

    `first_step`, `epoch`, `policy_version` of the next interval; `validation_loss` and `validation_accuracy`, the
    latest known, or None; after a step also `gain` and `reward` of the interval, either None where it is not known;
    `acted`, False where the action came after the job's patience had run out and the interval was planned with the
    action before it; and `failure`, what the trainer failed with, where it did.

    ## Starting State

    The first interval that awaits an action: of an untrained network, initialised from the seed, or, in a job that is
    joined, wherever its run is.

    ## Episode End

    - Truncation: the run is over, all its epochs are trained.
    - Termination: the trainer failed, or its validation loss is no longer finite. Of a trainer elsewhere this can't
      be told from a slow one: TimeoutError after `timeout` seconds without progress.

    A job that is joined is one episode. `reset` goes on with it, and raises RuntimeError once it is over.

    ## Arguments

    | Argument | Meaning | Default |
    |---|---|---|
    | `url` | of the service, such as `"http://127.0.0.1:8765"`; None: one of its own | `None` |
    | `job` | name of the job to join; None: a run of its own each episode | `None` |
    | `token` | of the service, as `pydantic.SecretStr`, so that nothing prints it; None: BSS_TOKEN, if set | `None` |
    | `timeout` | seconds without any progress of the trainer after which TimeoutError is raised | `600` |
    | `data` | `"emoji"`, `"watch"`, a prepared `file.npz[:modality,modality]`, or a `Dataset` | `"emoji"` |
    | `epochs` | length of a run | `10` |
    | `batch_size` | samples in one optimiser step | `64` |
    | `interval` | steps between two actions; None: an epoch | `None` |
    | `learning_rate`, `optimiser`, `device` | of the reference trainer | `1e-3`, `"adam"`, `"cpu"` |

    The last five rows are for runs of its own. Raises ValueError for arguments that don't fit together. `reset` and
    `step` raise `trainer_client.errors.OutageError`, which names the URL, when the service is gone, and
    `UnauthorisedError` for a wrong token.

    ## Version History

    - v0: first version
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as Gymnasium declares it

    def __init__(
        self,
        url: str | None = None,
        job: str | None = None,
        *,
        token: SecretStr | None = None,
        timeout: float = 600.0,
        data: str | Path | Dataset = "emoji",
        epochs: int = 10,
        batch_size: int = 64,
        interval: int | None = None,
        learning_rate: float = 1e-3,
        optimiser: Literal["adam", "sgd"] = "adam",
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None:
            raise ValueError(f"render_mode must be None, got {render_mode!r}")
        if job is not None and url is None:
            raise ValueError(f"url must say where job {job!r} is, got None")
        if token is not None and not isinstance(token, SecretStr):
            raise TypeError("token must be a pydantic.SecretStr, which nothing prints, or come from BSS_TOKEN")
        if timeout <= 0 or epochs < 1:
            raise ValueError(f"timeout must be positive and epochs at least 1, got {timeout} and {epochs}")
        self.render_mode = None
        self.observation_space: gymnasium.Space[Any] = observation_space()
        self.action_space: gymnasium.Space[Any] = action_space()
        self._url, self._job, self._token = url, job, token
        self._timeout = timeout
        self._data = data
        self._config = TrainingConfig(
            epochs=epochs, learning_rate=learning_rate, optimiser=optimiser, device=device, pull=True
        )
        self._batch_size, self._interval = batch_size, interval
        self._dataset: Dataset | None = None
        self._service: ServiceProcess | None = None
        self._client: SchedulerClient | None = None
        self._run: LiveRun | None = None
        self._before: PolicySpec | None = None  # what the joined job had
        self._seen: ObservationAnswer | None = None  # the observation that awaits an action; None: the episode is over
        self._number = 0  # of the decision that it will be

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32, dict[str, Any]]:
        """Begin a run, or join the one that there is; returns when an action is awaited."""
        super().reset(seed=seed)
        self._end_run()
        client = self._connected()
        if self._job is None:
            self._begin_run(client)
        else:
            self._join(client, self._job)
        seen = self._next_awaited(client)
        if seen is None:
            raise self._never_began(client)
        return seen.vector, self._info(client, seen)

    def step(self, action: NDArray[Any]) -> tuple[Float32, float, bool, bool, dict[str, Any]]:
        """Act on the next interval; returns when it is over."""
        seen, client = self._seen, self._client
        if seen is None or client is None:
            raise ResetNeeded("no interval awaits an action: call reset() first")
        number = self._number
        acted = self._act(client, seen, action)
        following = self._next_awaited(client, after=seen.first_step)
        failure = self._failure()
        if failure is not None:
            self._seen = None
        ended = following is None or failure is not None
        state = following or client.observation(self._name)
        decision = _decision_at(client.decisions(self._name, number).decisions, seen.first_step)
        reward = decision.reward if decision is not None else None
        info = self._info(client, state) | {
            "gain": decision.gain if decision is not None else None,
            "reward": reward,
            "acted": acted,
        }
        if failure is not None:
            info["failure"] = failure
        return state.vector, reward or 0.0, failure is not None, ended and failure is None, info

    def close(self) -> None:
        """End what was started, and give a joined job the policy back that it had."""
        self._end_run()
        if self._client is not None:
            self._leave(self._client)
            self._client.close()
            self._client = None
        if self._service is not None:
            self._service.close()
            self._service = None

    # Where the service is.

    def _connected(self) -> SchedulerClient:
        if self._client is None:
            if self._url is None and self._service is None:
                self._service = ServiceProcess(environment={"BSS_TOKEN": secrets.token_urlsafe(24)}).start()
            token = self._secret()
            self._client = SchedulerClient(self._address, token=token.get_secret_value() if token else None)
        return self._client

    @property
    def _address(self) -> str:
        if self._service is not None:
            return self._service.url
        assert self._url is not None
        return self._url

    def _secret(self) -> SecretStr | None:
        return self._token if self._service is None else self._service.token

    @property
    def _name(self) -> str:
        if self._job is not None:
            return self._job
        assert self._run is not None
        return self._run.job

    # Runs of its own.

    def _begin_run(self, client: SchedulerClient) -> None:
        if self._dataset is None:
            self._dataset = self._data if isinstance(self._data, Dataset) else load(self._data)
        seed = int(self.np_random.integers(2**31))
        spec = job_spec(
            f"served-{uuid4().hex}",
            self._dataset,
            batch_size=self._batch_size,
            epochs=self._config.epochs,
            seed=seed,
            policy=DRIVEN,
            interval=self._interval,
            reward=REWARD,
            patience=PATIENCE,
            tail="carry",  # as in the other environments
        )
        client.create_job(spec)  # here, so that a service that is gone or refuses is told at once
        self._run = LiveRun(self._address, self._secret(), self._dataset, spec, replace(self._config, seed=seed))

    def _end_run(self) -> None:
        self._seen = None
        run, self._run = self._run, None
        if run is None or self._client is None:
            return
        once = self._client.without_retries()
        try:
            run.end_soon()
            once.swap(run.job, "uniform")  # a trainer that is held for an action gets its batch, and stops after it
            run.wait()
            once.delete_job(run.job)
        except SchedulerError:  # the service is gone, or the job
            run.abandon()

    # A job whose trainer is elsewhere.

    def _join(self, client: SchedulerClient, job: str) -> None:
        state = client.job(job)
        if _is_handed_out(state):
            raise RuntimeError(f"job {job!r} at {self._address} is over: all {state.next_step} steps are handed out")
        if lacking := state.spec.lacks(ANY.needs()):
            raise RuntimeError(
                f"job {job!r} must declare all that an action may need (signals=trainer_client.EVIDENCE), it lacks "
                + ", ".join(lacking)
            )
        newest = _newest_policy(state)
        if newest != DRIVEN:
            client.swap(job, EXTERNAL)
            self._before = newest

    def _leave(self, client: SchedulerClient) -> None:
        """A trainer that nobody acts for any more would wait for its patience in every interval."""
        if self._job is None or self._before is None:
            return
        once = client.without_retries()
        try:
            state = once.job(self._job)
            if _newest_policy(state) == DRIVEN:  # nobody has given it another meanwhile
                once.swap(self._job, self._before.name, dict(self._before.parameters))
        except SchedulerError as error:
            log.warning("job %r did not get its policy %r back: %s", self._job, self._before.name, error)
        self._before = None

    # Acting and waiting.

    def _act(self, client: SchedulerClient, seen: ObservationAnswer, action: NDArray[Any]) -> bool:
        """Send the action; False if its interval was planned without it."""
        try:
            client.set_action(self._name, seen.first_step, np.asarray(action))
        except ConflictError:
            self._check_policy(client.job(self._name))
            log.warning("the action for step %d came too late: the job's patience had run out", seen.first_step)
            return False
        return True

    def _next_awaited(self, client: SchedulerClient, after: int = -1) -> ObservationAnswer | None:
        """The next observation that awaits an action, or None at the run's end; raises TimeoutError."""
        poll = min(OWN_POLL if self._job is None else JOINED_POLL, self._timeout)
        progress: tuple[Any, ...] = ()
        since = time.monotonic()
        while True:
            over = self._run is not None and self._run.finished  # before the look: whatever it told is in then
            seen = client.observation(self._name, wait=0.0 if over else poll)
            if seen.awaits_action and seen.first_step > after:
                self._seen = _of_this_schema(seen)
                self._number = client.decisions(self._name, count=1).total
                return seen
            state = client.job(self._name)
            if over or _is_over(state):
                self._seen = None
                return None
            self._check_policy(state)
            if progress != (progress := _progress(state)):
                since = time.monotonic()
            elif time.monotonic() - since >= self._timeout:
                if _is_handed_out(state):  # a trainer that does not validate after its last step
                    self._seen = None
                    return None
                raise TimeoutError(
                    f"the trainer of job {self._name!r} at {self._address} has made no progress since step "
                    f"{state.next_step} for {self._timeout:g} s"
                )

    def _check_policy(self, state: JobState) -> None:
        if _newest_policy(state) != DRIVEN:
            raise RuntimeError(
                f"job {self._name!r} at {self._address} was given the policy {_newest_policy(state).name!r} by "
                "somebody else: this environment can't act on it any more"
            )

    # What came of it.

    def _failure(self) -> str | None:
        """What the trainer failed with, if it did; raises what is the scheduler's failure."""
        run = self._run
        if run is None:
            return None
        if run.diverged:
            return "the validation loss is not finite"
        if isinstance(run.error, SchedulerError):
            raise run.error
        return None if run.error is None else f"{type(run.error).__name__}: {run.error}"

    def _never_began(self, client: SchedulerClient) -> Exception:
        error = self._run.error if self._run is not None else None
        if error is not None:
            return error
        return RuntimeError(f"job {self._name!r} at {self._address} was over before an action was awaited")

    def _info(self, client: SchedulerClient, seen: ObservationAnswer) -> dict[str, Any]:
        report = client.job(self._name).validation
        return {
            "first_step": seen.first_step,
            "epoch": seen.epoch,
            "policy_version": seen.policy_version,
            "validation_loss": report.loss if report is not None else None,
            "validation_accuracy": report.accuracy if report is not None else None,
        }


def _of_this_schema(seen: ObservationAnswer) -> ObservationAnswer:
    if seen.schema_hash != SCHEMA_HASH:
        raise RuntimeError(
            f"the service's observations have schema {seen.schema_hash[:12]}, this environment's {SCHEMA_HASH[:12]}: "
            "install the same version of bss-scheduler on both sides"
        )
    return seen


def _decision_at(rows: list[Decision], first_step: int) -> Decision | None:
    return next((row for row in rows if row.first_step == first_step), None)


def _newest_policy(state: JobState) -> PolicySpec:
    return (state.pending_policy or state.policy).policy


def _progress(state: JobState) -> tuple[Any, ...]:
    return state.next_step, state.steps_fed_back, state.validation


def _is_handed_out(state: JobState) -> bool:
    return state.spec.horizon is not None and state.next_step >= state.spec.horizon


def _is_over(state: JobState) -> bool:
    """Whether a run of known length has reported after its last step."""
    return _is_handed_out(state) and state.validation is not None and state.validation.step >= state.next_step
