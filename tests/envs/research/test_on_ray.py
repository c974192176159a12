"""Cells on Ray: on one node, and on several of which one is killed."""

import math
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from bss_service.core.action import Action
from envs.research.actors import FixedActor, of_name
from envs.research.executor import ExecutorError
from envs.research.executor.on_ray import _computed, on_ray, versions
from envs.research.rollouts import Episode, Rollout, play
from envs.tasks import Task

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
