"""Cells on Ray: on one node, and on several of which one is killed."""

import json
import math
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from typer.testing import CliRunner

from bss_cli.commands import app
from bss_service.core.action import Action
from envs.research.actors import FixedActor, of_name
from envs.research.executor import ExecutorError
from envs.research.executor.on_ray import _computed, on_ray, versions
from envs.research.rollouts import Episode, Rollout, play
from envs.tasks import Task
from tests.envs.research.suite.conftest import written

UNIFORM, KEEP = partial(of_name, "uniform", {}), partial(FixedActor, Action(share=0.5, rank_by="loss"))


@pytest.mark.long  # Ray takes ten seconds to begin, most of which it waits; a loaded machine takes it to its own limit
def test_ray_keeps_to_what_an_executor_keeps_to() -> None:
    with on_ray("local") as executor:
        assert sorted(executor.map(math.isqrt, range(16, 36))) == [(k, math.isqrt(k + 16)) for k in range(20)]
        assert [*executor.map(os.getenv, ["OPENBLAS_NUM_THREADS"])] == [(0, "1")]
        with pytest.raises(ValueError, match="must be nonnegative") as raised:
            list(executor.map(math.isqrt, [-1]))
        assert (type(raised.value), raised.value.__notes__) == (ValueError, ["in cell 0"])
        with pytest.raises(ValueError, match="function must be importable by its name"):
            executor.map(lambda cell: cell, [0])


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_told_at_once(address: str) -> None:
    with pytest.raises(ExecutorError, match=f"there is no cluster of Ray at {address}"), on_ray(address):
        pass


def test_a_cell_is_computed_by_the_same_versions_or_not_at_all() -> None:
    """What runs on a node, here."""
    assert _computed(("math", "isqrt"), versions(), 17) == 4
    with pytest.raises(ExecutorError, match=r"numpy must be 1.0 on every node, as it is here; [\d.]+ has 2"):
        _computed(("math", "isqrt"), {**versions(), "numpy": "1.0"}, 17)


def play_but_hang_first(cell: tuple[str | None, list[Episode]]) -> list[Rollout]:
    """Play; where there is a FIFO, say on which node this is, and go no further."""
    fifo, episodes = cell
    if fifo and Path(fifo).exists():
        Path(fifo).write_text(ray.get_runtime_context().get_node_id())
        signal.pause()
    return play(episodes)


@pytest.mark.long
def test_a_suite_comes_to_the_same_on_a_cluster_as_in_processes_of_this_machine(tmp_path: Path) -> None:
    """`bss bench run`, each run with a service of the process that makes it."""
    written(tmp_path)

    def runs(out: str, *options: str) -> dict[str, Any]:
        """What was kept of each, but for seconds."""
        where = [str(tmp_path / "tiny.toml"), "--data", str(tmp_path), "--out", str(tmp_path / out)]
        outcome = CliRunner().invoke(app, ["bench", "run", *where, *options])
        assert outcome.exit_code == 0, outcome.output
        kept = {path.name: json.loads(path.read_text()) for path in (tmp_path / out / "runs").glob("*.json")}
        for each in kept.values():
            each["result"].pop("seconds")
        return kept

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        on_cluster = runs("ray", "--executor", "ray", "--address", cluster.address)
    finally:
        cluster.shutdown()
    here = runs("here", "--workers", "2")
    assert len(here) == 16
    assert on_cluster == here


@pytest.mark.long
def test_a_cell_that_may_have_a_gpu_has_one_for_itself() -> None:
    """Of two that the cluster says it has; what is seen of them is what Ray lets a process see."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2})
    try:
        for gpus, slots, seen in ((True, 2, {"0", "1"}), (False, 4, {"", None})):
            with on_ray(cluster.address, gpus=gpus) as executor:
                assert executor.slots == slots
                assert {value for _, value in executor.map(os.getenv, ["CUDA_VISIBLE_DEVICES"] * 4)} <= seen
    finally:
        cluster.shutdown()


def told(rollout: Rollout) -> tuple[float, float, float, bytes]:
    numbers = rollout.validation_accuracy, rollout.test_accuracy, rollout.left_out
    return *numbers, rollout.observations.tobytes()


@pytest.mark.long
def test_the_numbers_are_those_of_this_machine_though_a_node_is_killed_as_it_computes(tmp_path: Path) -> None:
    tasks = [Task("synthetic:2", 128, 0.1, intervals, seed, validation=40) for seed in range(8) for intervals in (4, 8)]
    cells = [[Episode(task, task.seed, UNIFORM), Episode(task, task.seed, KEEP)] for task in tasks]
    expected = [play(cell) for cell in cells]
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1) for _ in range(2))}
    try:
        with on_ray(cluster.address) as executor:
            made = executor.map(play_but_hang_first, [(None if k else str(fifo), cell) for k, cell in enumerate(cells)])
            came = dict([next(made)])
            hanging = nodes[fifo.read_text()]
            fifo.unlink()
            cluster.remove_node(hanging, allow_graceful=False)
            came |= dict(made)
    finally:
        cluster.shutdown()
    for k, rollouts in enumerate(expected):
        assert [*map(told, came[k])] == [*map(told, rollouts)]
