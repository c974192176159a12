"""From the decisions of a running service, or of an environment, to a Minari data set and what is learned of it."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bss_cli.commands import app
from bss_service.core.action import DIMENSION, NAMED_ACTIONS, Action
from bss_service.core.observation import FIELDS
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import RewardSpec
from envs.research.offline.dataset import decisions, read, read_rows, write
from envs.research.offline.runs import LoggedRun, episodes_of_environment, runs_of_log
from envs.spaces import action_space, discrete_action_space, observation_space
from tests.support.services import Service
from tests.support.simulated import spec, train
from trainer_client.client import SchedulerClient

EPOCHS = 30
STEPS = 6  # of an epoch of 48 samples in batches of 8


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where data sets of this test lie."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path


@pytest.fixture(scope="module")
def rows(service: Service) -> list[Decision]:
    """The log of a job whose first half the bandit scheduled and whose second half uniform order."""
    job = spec("dataset", samples=48, policy="bandit")
    with service.client() as client:
        client.create_job(job)
        train(client, job, range(EPOCHS // 2 * STEPS))
        client.swap(job.name, "uniform")
        train(client, job, range(EPOCHS // 2 * STEPS, EPOCHS * STEPS))
        return decisions(client, job.name)


def row(number: int, reward: float | None = 0.5, **changes: Any) -> Decision:
    """The `number`-th decision of a job whose intervals have 10 steps."""
    fields = {
        "first_step": 10 * number,
        "end_step": 10 * number + 10,
        "epoch": number,
        "policy_version": 1,
        "policy": "any",
        "observation": dict.fromkeys(FIELDS, 0.0) | {"progress": number / 100},
        "action": Action().as_dict(),
        "propensity": 0.25,
        "detail": {},
        "gain": None,
        "reward": reward,
    }
    return Decision.model_validate(fields | changes)


def cloned_loss(episodes: list[Any], steps: int) -> tuple[float, float]:
    """Mean squared error of a cloned policy on its data, and that of the mean action."""
    observations = torch.tensor(np.concatenate([e.observations[:-1] for e in episodes]))
    actions = torch.tensor(np.concatenate([e.actions for e in episodes]))
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(len(FIELDS), 64), torch.nn.Tanh(), torch.nn.Linear(64, actions.shape[1])
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = torch.nn.functional.mse_loss(network(observations), actions)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss.detach()), float(actions.var(dim=0, correction=0).mean())


def test_a_decision_log_of_a_service_becomes_a_data_set(rows: list[Decision]) -> None:
    write("bss/log-v0", runs_of_log("dataset", rows), description="Made by a test.", author="tester")

    stored = minari.load_dataset("bss/log-v0")
    (episode,) = stored.iterate_episodes()
    rewarded = [r for r in rows if r.reward is not None]
    assert len(rewarded) == EPOCHS - 1  # no report came before the first interval
    np.testing.assert_allclose(episode.rewards, [r.reward for r in rewarded])
    np.testing.assert_allclose(episode.infos["propensity"], [r.propensity for r in rewarded])
    assert episode.observations.shape == (EPOCHS, len(FIELDS))
    assert episode.observations.dtype == episode.actions.dtype == np.float32
    arms = [r.detail.get("arm", "uniform") for r in rewarded]
    np.testing.assert_array_equal(episode.actions, [NAMED_ACTIONS[arm].to_vector() for arm in arms])
    np.testing.assert_array_equal(episode.infos["clipped_action"], episode.actions)
    assert episode.infos["first_step"].tolist() == [r.first_step for r in rewarded]
    assert stored.storage.metadata["author"] == {"tester"}
    assert stored.storage.metadata["description"].startswith("Made by a test.")


def test_a_swap_keeps_the_run_whole_and_shows_in_the_versions(rows: list[Decision]) -> None:
    (run,) = runs_of_log("dataset", rows)

    assert sorted(set(run.policy_versions.tolist())) == [1, 2]
    assert (run.log_probabilities[run.policy_versions == 2] == 0).all()  # uniform order is deterministic


def test_behaviour_cloning_learns_from_it(rows: list[Decision]) -> None:
    write("bss/log-v0", runs_of_log("dataset", rows))
    episodes = list(minari.load_dataset("bss/log-v0").iterate_episodes())

    early, of_the_mean = cloned_loss(episodes, steps=1)
    late, _ = cloned_loss(episodes, steps=300)

    assert late < 0.5 * of_the_mean < early


def test_the_command_asks_the_service(rows: list[Decision], service: Service) -> None:
    result = CliRunner().invoke(app, ["research", "dataset", "asked", "--job", "dataset", "--url", service.url])

    assert result.exit_code == 0, result.output
    assert result.output == f"bss/asked-v0: 1 episodes of 1 runs, {EPOCHS - 1} decisions; 1 left out\n"
    stored = minari.load_dataset("bss/asked-v0")
    assert stored.total_steps == EPOCHS - 1
    assert '"basis":"surprise"' in stored.storage.metadata["description"]


def test_jobs_that_are_rewarded_differently_make_no_data_set(service: Service, client: SchedulerClient) -> None:
    for name, metric in (("by-loss", "loss"), ("by-accuracy", "accuracy")):
        client.create_job(spec(name, reward=RewardSpec(metric=metric)))

    jobs = ["--job", "by-loss", "--job", "by-accuracy", "--url", service.url]
    result = CliRunner().invoke(app, ["research", "dataset", "mixed", *jobs])

    assert result.exit_code == 1
    assert "must be rewarded alike" in result.output


def test_the_command_takes_files(rows: list[Decision], datasets: Path) -> None:
    for name, stored in (("a", rows), ("b", rows[:20])):
        (datasets / f"{name}.json").write_text(json.dumps([r.model_dump(mode="json") for r in stored]))
    files = [flag for name in "ab" for flag in ("--log", str(datasets / f"{name}.json"))]

    result = CliRunner().invoke(app, ["research", "dataset", "filed", *files])

    assert result.exit_code == 0, result.output
    assert [len(e) for e in minari.load_dataset("bss/filed-v0").iterate_episodes()] == [EPOCHS - 1, 19]


def test_an_answer_of_the_service_can_be_read_from_a_file(client: SchedulerClient, datasets: Path) -> None:
    job = spec("answered", policy="uniform")
    client.create_job(job)
    train(client, job, range(20))
    answer = client.decisions(job.name)
    (datasets / "answer.json").write_text(answer.model_dump_json())

    assert read_rows(datasets / "answer.json") == answer.decisions


def test_a_name_that_is_taken_and_a_log_without_rewards_are_refused(datasets: Path) -> None:
    run = runs_of_log("job", [row(1)])
    write("bss/taken-v0", run)
    (datasets / "empty.json").write_text("[]")

    taken = CliRunner().invoke(app, ["research", "dataset", "empty", "--log", str(datasets / "empty.json")])

    assert taken.exit_code == 1
    assert "no decision with a reward" in taken.output
    with pytest.raises(ValueError, match="taken"):
        write("bss/taken-v0", run)


def test_decisions_without_a_reward_at_either_end_are_left_out() -> None:
    (run,) = runs_of_log("job", [row(0, None), row(1), row(2), row(3, None)])

    assert run.first_steps.tolist() == [10, 20]
    np.testing.assert_allclose(run.observations[:, 0], [0.01, 0.02, 0.03])  # the next decision's, though unrewarded
    assert not run.terminated


def test_a_run_that_ends_with_a_reward_has_ended() -> None:
    (run,) = runs_of_log("job", [row(1), row(2)])

    assert run.terminated
    np.testing.assert_array_equal(run.observations[-1], run.observations[-2])


def test_a_missing_reward_splits_the_run_and_off_policy_evaluation_leaves_it_out() -> None:
    broken = runs_of_log("broken", [row(1), row(2, None), row(3), row(4)])
    write("bss/split-v0", [*broken, *runs_of_log("whole", [row(1), row(2)])])

    episodes, left_out = read("bss/split-v0")

    assert [(run.part, len(run.rewards)) for run in broken] == [(0, 1), (1, 2)]
    assert (len(episodes), left_out) == (1, 1)


def test_a_plan_that_was_replaced_before_its_first_step_is_left_out() -> None:
    (run,) = runs_of_log("job", [row(1), row(2, None, end_step=20), row(2, policy_version=2)])

    assert run.policy_versions.tolist() == [1, 2]


def test_what_a_gaussian_policy_drew_is_kept_raw_beside_what_it_became() -> None:
    raw = [1.5] * DIMENSION
    drawn = row(1, action=Action.from_vector(np.array(raw)).as_dict(), detail={"raw_action": raw}, propensity=3.5)

    (run,) = runs_of_log("job", [drawn])

    np.testing.assert_array_equal(run.actions, [raw])
    assert (np.abs(run.clipped_actions) <= 1).all()
    assert run.log_probabilities == pytest.approx(np.log(3.5))


def test_a_policy_that_tells_names_and_exact_logarithms_is_taken_at_its_word() -> None:
    (run,) = runs_of_log("job", [row(1, detail={"raw_action": "hard", "log_probability": -700.5}, propensity=0.1)])

    np.testing.assert_array_equal(run.actions[0], NAMED_ACTIONS["hard"].to_vector())
    assert run.log_probabilities.tolist() == [-700.5]


def test_an_observation_of_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks progress"):
        runs_of_log("job", [row(1, observation={})])


class Walk(gymnasium.Env[Any, Any]):
    """Six decisions, each rewarded with the first component of the action as it arrives."""

    observation_space = observation_space()

    def __init__(self, actions: gymnasium.Space[Any]) -> None:
        self.action_space = actions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._left = 6
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self._left -= 1
        return self._look(), float(np.ravel(action)[0]), False, self._left == 0, {}

    def _look(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, len(FIELDS)).astype(np.float32)


class Wide:
    """Draws far beyond the box."""

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        z = rng.normal(size=DIMENSION)
        return 3 * z, float((-0.5 * z**2 - np.log(3) - 0.5 * np.log(2 * np.pi)).sum())


class Third:
    """Always the third of the named actions."""

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> tuple[int, float]:
        return 2, 0.0


def test_runs_in_an_environment_keep_the_action_as_drawn() -> None:
    runs = episodes_of_environment(Walk(action_space()), Wide(), seeds=[4, 5])
    write("bss/walk-v0", runs)

    first, second = minari.load_dataset("bss/walk-v0").iterate_episodes()

    assert np.abs(first.actions).max() > 1
    np.testing.assert_array_equal(first.infos["clipped_action"], np.clip(first.actions, -1, 1))
    np.testing.assert_allclose(first.rewards, first.infos["clipped_action"][:, 0])
    assert first.truncations.tolist() == [False] * 5 + [True]
    assert not np.array_equal(first.actions, second.actions)


def test_the_same_seed_makes_the_same_run() -> None:
    def made() -> LoggedRun:
        return episodes_of_environment(Walk(action_space()), Wide(), seeds=[4])[0]

    np.testing.assert_array_equal(made().actions, made().actions)
    np.testing.assert_array_equal(made().observations, made().observations)


def test_runs_with_named_actions_keep_their_vectors() -> None:
    (run,) = episodes_of_environment(Walk(discrete_action_space()), Third(), seeds=[0])

    np.testing.assert_array_equal(run.actions[0], list(NAMED_ACTIONS.values())[2].to_vector())
