"""`ServedScheduling-v0`: live runs of its own, and jobs that it joins, against real services."""

import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from pydantic import SecretStr

import envs  # noqa: F401  # registers what gymnasium.make finds
from bss_service.core.action import DIMENSION, Action
from bss_service.core.signals import EVIDENCE
from bss_service.protocol.training import StepsRequest
from envs.served import ServedScheduling
from tests.support.services import Service
from tests.support.simulated import spec, train
from trainer_client.client import SchedulerClient
from trainer_client.errors import OutageError, UnauthorisedError, UnknownJobError
from trainer_client.reference.training import Trainer

EPOCHS = 3
TOKEN = "a-token-that-only-tests-use"
Trajectory = list[tuple[bytes, float, bool, bool, dict[str, Any]]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two noisy views of three clusters, prepared: 60 samples to train on, 20 to validate, 10 to test."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=90)
    centres = rng.normal(size=(2, 3, 4))
    left, right = (centres[k, labels] + rng.normal(size=(90, 4)) for k in range(2))
    path = tmp_path_factory.mktemp("data") / "clusters.npz"
    np.savez(
        path,
        left=left.astype(np.float32),
        right=right.astype(np.float32),
        y=labels.astype(np.int64),
        split=np.repeat(np.array([0, 1, 2], dtype=np.uint8), [60, 20, 10]),
        modalities=np.array(["left", "right"]),
        classes=np.array(list("abc")),
    )
    return str(path)


@pytest.fixture
def make(data: str) -> Iterator[Callable[..., ServedScheduling]]:
    """Makes environments, and closes them with the test."""
    made: list[ServedScheduling] = []

    def make(*args: Any, **options: Any) -> ServedScheduling:
        made.append(ServedScheduling(*args, **{"data": data, "epochs": EPOCHS, "batch_size": 12, **options}))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture
def live(service: Service, make: Callable[..., ServedScheduling]) -> ServedScheduling:
    """Runs of its own on the tests' shared service, which need not start."""
    return make(service.url)


def actions(count: int = EPOCHS, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).uniform(-1, 1, (count, DIMENSION)).astype(np.float32))


def episode(env: ServedScheduling, seed: int = 0, count: int = EPOCHS, between: Any = None) -> Trajectory:
    """An episode with fixed actions; the last entry ends it."""
    observation, info = env.reset(seed=seed)
    came: Trajectory = [(observation.tobytes(), 0.0, False, False, info)]
    for k, action in enumerate(actions(count)):
        if between is not None:
            between(k)
        observation, *rest = env.step(action)
        came.append((observation.tobytes(), *rest))
    return came


# What every environment owes.


def test_gymnasium_finds_nothing_wrong(service: Service, data: str) -> None:
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make("ServedScheduling-v0", url=service.url, data=data, epochs=2, batch_size=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


def test_stable_baselines3_finds_nothing_wrong(live: ServedScheduling) -> None:
    from stable_baselines3.common.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(live)


def test_ppo_learns_in_it(live: ServedScheduling) -> None:
    from stable_baselines3 import PPO

    agent = PPO("MlpPolicy", live, n_steps=6, batch_size=6, n_epochs=1, device="cpu", seed=0)
    agent.learn(12)
    assert agent.num_timesteps == 12


# Runs of its own.


def test_an_episode_is_a_run_to_its_end(live: ServedScheduling, client: SchedulerClient) -> None:
    came = episode(live)
    assert [entry[2:4] for entry in came] == [(False, False)] * EPOCHS + [(False, True)]
    assert [entry[4]["first_step"] for entry in came] == [0, 5, 10, 15]
    assert all(entry[4]["acted"] and entry[4]["reward"] == entry[1] for entry in came[1:])
    accuracies = [entry[4]["validation_accuracy"] for entry in came]
    assert sum(entry[1] for entry in came) == pytest.approx(max(accuracies) - accuracies[0])
    log = client.decisions(live._name).decisions
    observed = [np.frombuffer(entry[0], np.float32).tolist() for entry in came]
    assert [row.observation.vector.tolist() for row in log] == observed[:-1]
    assert [row.action for row in log] == [Action.from_vector(action) for action in actions()]
    assert [row.detail["raw_action"] for row in log] == [action.tolist() for action in actions()]
    with pytest.raises(ResetNeeded):
        live.step(actions()[0])


def test_the_same_seed_and_actions_give_the_same_run(make: Callable[..., ServedScheduling], service: Service) -> None:
    first, second = make(service.url), make()  # the second on a service of its own
    came = episode(first)
    assert episode(second) == came
    assert episode(first) == came
    assert episode(second, seed=1)[-1][0] != came[-1][0]


def test_runs_without_a_seed_differ(live: ServedScheduling) -> None:
    live.reset(seed=0)
    assert live.reset()[1]["validation_loss"] != live.reset()[1]["validation_loss"]


def test_an_interval_that_no_report_ends_earns_nothing_and_says_so(
    service: Service, make: Callable[..., ServedScheduling]
) -> None:
    came = episode(make(service.url, interval=2, epochs=2), count=5)  # 5 steps an epoch: intervals end in epochs' midst
    rewards = [(entry[4]["reward"] is not None, entry[1] != 0.0) for entry in came[1:]]
    assert (False, False) in rewards
    assert all(known or reward is False for known, reward in rewards)
    assert came[-1][3]


@pytest.mark.filterwarnings("ignore:a validation report was left out")
def test_a_run_that_diverges_ends_the_episode(service: Service, make: Callable[..., ServedScheduling]) -> None:
    env = make(service.url, learning_rate=1e30, optimiser="sgd")
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(actions()[0])
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert info["failure"] == "the validation loss is not finite"
    assert info["reward"] is None
    env.reset(seed=0)


def test_a_trainer_that_fails_ends_the_episode(live: ServedScheduling, monkeypatch: pytest.MonkeyPatch) -> None:
    live.reset(seed=0)
    monkeypatch.setattr(Trainer, "_train_step", lambda *_: 1 // 0)
    _, reward, terminated, truncated, info = live.step(actions()[0])
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert info["failure"] == "ZeroDivisionError: integer division or modulo by zero"
    with pytest.raises(ResetNeeded):
        live.step(actions()[0])


def test_a_trainer_that_cannot_begin_is_told_at_reset(live: ServedScheduling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_begin", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        live.reset(seed=0)


def test_a_killed_service_that_comes_back_changes_nothing(
    start_service: Callable[..., Service], make: Callable[..., ServedScheduling], live: ServedScheduling
) -> None:
    service = start_service()

    def crash(number: int) -> None:
        if number == 1:
            service.kill()
            service.start()

    assert episode(make(service.url), between=crash) == episode(live)


# What is left behind.


def sockets() -> set[str]:
    """Those of this process."""
    targets = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith(("socket:", "pipe:")):
            targets.add(target)
    return targets


@pytest.mark.parametrize("steps", [0, 1, EPOCHS])
def test_closing_leaves_no_thread_process_or_socket(make: Callable[..., ServedScheduling], steps: int) -> None:
    threads, before = set(threading.enumerate()), sockets()
    env = make()
    env.reset(seed=0)
    for action in actions(steps):
        env.step(action)
    assert env._service is not None
    process, folder = env._service.process, env._service.folder
    env.close()
    assert set(threading.enumerate()) <= threads
    assert process.returncode is not None
    assert not folder.exists()
    assert sockets() <= before
    env.close()


def test_a_run_that_was_left_leaves_no_job(
    live: ServedScheduling, client: SchedulerClient, caplog: pytest.LogCaptureFixture
) -> None:
    live.reset(seed=0)
    left = live._name
    live.reset(seed=0)
    assert caplog.records == []
    with pytest.raises(UnknownJobError):
        client.job(left)


def test_nothing_is_started_before_reset() -> None:
    before = set(threading.enumerate())
    env = ServedScheduling(data="no such set")
    assert (env._service, env._client, env._run) == (None, None, None)
    assert set(threading.enumerate()) == before
    with pytest.raises(ResetNeeded):
        env.step(actions()[0])
    env.close()


PROGRAM = """
import sys, numpy as np
from envs.served import ServedScheduling
env = ServedScheduling(data=sys.argv[1], epochs=1000, batch_size=12)
try:
    env.reset(seed=0)
    print(env._service.process.pid, flush=True)
    while True:
        env.step(np.zeros(env.action_space.shape, np.float32))
finally:
    env.close()
    print("closed", flush=True)
"""


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGKILL])
def test_the_service_ends_with_whoever_started_it(data: str, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, data], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        service = int(process.stdout.readline())
        time.sleep(0.5)
        process.send_signal(how)
        out, error = process.communicate(timeout=30)
    if how == signal.SIGINT:
        assert "closed" in out
        assert "KeyboardInterrupt" in error
    deadline = time.monotonic() + 15
    while _runs(service):
        assert time.monotonic() < deadline, "the service is still there"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


# When something is wrong.


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_a_service_that_goes_away_is_named(make: Callable[..., ServedScheduling], seconds: float) -> None:
    env = make()
    env.reset(seed=0)
    assert env._service is not None
    env._service.kill()
    time.sleep(seconds)
    with pytest.raises(OutageError, match=env._service.url):
        env.step(actions()[0])
    env.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(("bss-trainer", "bss-worker"))]


def test_no_service_at_all_is_named(make: Callable[..., ServedScheduling]) -> None:
    with pytest.raises(OutageError, match=r"http://127\.0\.0\.1:9"):
        make("http://127.0.0.1:9").reset(seed=0)


def test_the_token_is_needed_used_and_not_shown(
    start_service: Callable[..., Service], make: Callable[..., ServedScheduling], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start_service(BSS_TOKEN=TOKEN)
    wrong = make(service.url, token=SecretStr("another-token-of-tests"))
    with pytest.raises(UnauthorisedError) as refused:
        wrong.reset(seed=0)
    assert "another-token" not in f"{refused.value} {wrong!r} {vars(wrong)}"
    given = make(service.url, token=SecretStr(TOKEN))
    came = episode(given)
    assert TOKEN not in f"{given!r} {vars(given)} {came}"
    monkeypatch.setenv("BSS_TOKEN", TOKEN)
    assert episode(make(service.url)) == came
    with pytest.raises(TypeError, match="SecretStr") as plain:
        make(service.url, token=TOKEN)
    assert TOKEN not in str(plain.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"job": "run-1"}, "url must say where job 'run-1' is"),
        ({"timeout": 0}, "timeout must be positive"),
        ({"epochs": 0}, "epochs at least 1"),
        ({"render_mode": "human"}, "render_mode must be None, got 'human'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServedScheduling(**arguments)


def test_a_data_set_that_does_not_exist_is_told_at_reset(service: Service) -> None:
    env = ServedScheduling(service.url, data="nonesuch")
    with pytest.raises(ValueError, match="nonesuch"):
        env.reset(seed=0)
    env.close()


# A job whose trainer is elsewhere.


@pytest.fixture
def elsewhere(client: SchedulerClient, job_name: str) -> Iterator[Callable[..., "Future[Any]"]]:
    """Begins to train a simulated job: 6 steps an epoch, as many as `steps`."""
    with ThreadPoolExecutor(1) as pool:

        def begin(steps: int = 18, policy: str = "balance", pause: float = 0.0, **fields: Any) -> "Future[Any]":
            job = spec(
                job_name,
                policy=policy,
                signals=list(EVIDENCE),
                horizon=steps,
                patience=fields.pop("patience", 20.0),
                **fields,
            )
            client.create_job(job)
            return pool.submit(train, client, job, range(steps), 1)

        yield begin


def joined(make: Callable[..., ServedScheduling], service: Service, job: str, **options: Any) -> ServedScheduling:
    return make(service.url, job, **options)


def test_it_joins_a_job_at_its_next_interval_and_sees_it_to_its_end(
    make: Callable[..., ServedScheduling], service: Service, client: SchedulerClient, job_name: str, elsewhere: Any
) -> None:
    training = elsewhere(policy="external")
    env = joined(make, service, job_name)
    observation, info = env.reset(seed=0)
    came = [observation]
    assert info["first_step"] == 0
    for k, action in enumerate(actions(3)):
        observation, reward, terminated, truncated, info = env.step(action)
        came.append(observation)
        assert (terminated, truncated, info["acted"]) == (False, k == 2, True)
        assert reward == (info["reward"] or 0.0)
    training.result(timeout=10)
    log = client.decisions(job_name).decisions
    assert [row.detail["raw_action"] for row in log] == [action.tolist() for action in actions(3)]
    assert [row.observation.vector.tolist() for row in log] == [o.tolist() for o in came[:-1]]
    assert (info["reward"], info["gain"]) == (log[-1].reward, log[-1].gain)
    with pytest.raises(RuntimeError, match="is over: all 18 steps are handed out"):
        env.reset()


def test_it_takes_over_from_another_policy_and_gives_it_back(
    make: Callable[..., ServedScheduling], service: Service, client: SchedulerClient, job_name: str, elsewhere: Any
) -> None:
    name = job_name
    client.create_job(spec(name, policy="balance", signals=list(EVIDENCE), horizon=30, patience=600.0))
    client.steps(name, StepsRequest(start=0))
    env = joined(make, service, name)
    training = elsewhere(30, patience=600.0)
    _, info = env.reset(seed=0)
    assert (info["first_step"], info["policy_version"]) == (6, 2)
    assert env.step(actions()[0])[4]["acted"]
    env.reset()  # joins the same interval, nothing is lost
    env.close()  # while the trainer waits for the next action
    training.result(timeout=20)
    log = client.decisions(name).decisions
    assert [row.policy for row in log] == ["balance", "external", "balance", "balance", "balance"]
    assert client.policy(name).policy.name == "balance"


def test_a_policy_that_somebody_else_gave_is_respected(
    make: Callable[..., ServedScheduling], service: Service, client: SchedulerClient, job_name: str, elsewhere: Any
) -> None:
    training = elsewhere()
    env = joined(make, service, job_name)
    env.reset(seed=0)
    client.swap(job_name, "curriculum")
    with pytest.raises(RuntimeError, match="was given the policy 'curriculum' by somebody else"):
        env.step(actions()[0])
    env.close()
    training.result(timeout=20)
    assert client.policy(job_name).policy.name == "curriculum"


def test_an_action_that_comes_too_late_is_told(
    make: Callable[..., ServedScheduling], service: Service, job_name: str, elsewhere: Any
) -> None:
    training = elsewhere(24, policy="external", patience=1.0)
    env = joined(make, service, job_name)
    _, info = env.reset(seed=0)
    first = info["first_step"]
    time.sleep(1.5)  # patience runs out: the trainer goes on to the next interval
    _, _, _, _, info = env.step(actions()[0])
    assert (info["acted"], info["first_step"] > first) == (False, True)
    assert env.step(actions()[0])[4]["acted"]
    env.close()
    training.result(timeout=20)


def test_a_job_that_nobody_trains_runs_into_the_timeout(
    make: Callable[..., ServedScheduling], service: Service, client: SchedulerClient, job_name: str
) -> None:
    client.create_job(spec(job_name, policy="uniform", signals=list(EVIDENCE), horizon=30))
    env = joined(make, service, job_name, timeout=0.5)
    with pytest.raises(TimeoutError, match=f"the trainer of job '{job_name}' at {service.url} has made no progress"):
        env.reset(seed=0)
    env.close()
    assert client.policy(job_name).policy.name == "uniform"


def test_a_job_that_lacks_what_an_action_may_need_is_refused(
    make: Callable[..., ServedScheduling], service: Service, client: SchedulerClient, job_name: str
) -> None:
    client.create_job(spec(job_name, policy="uniform", horizon=30))
    with pytest.raises(RuntimeError, match=r"signals=trainer_client.EVIDENCE\), it lacks summed_probability, margin"):
        joined(make, service, job_name).reset(seed=0)
    assert client.policy(job_name).policy.name == "uniform"


def test_an_unknown_job_is_not_found(make: Callable[..., ServedScheduling], service: Service) -> None:
    with pytest.raises(UnknownJobError, match="'nobody' is not known"):
        joined(make, service, "nobody").reset(seed=0)


def test_the_data_sheet_names_every_argument() -> None:
    import inspect

    described = ServedScheduling.__doc__ or ""
    parameters = set(inspect.signature(ServedScheduling).parameters) - {"render_mode"}
    assert [name for name in parameters if f"`{name}`" not in described] == []
