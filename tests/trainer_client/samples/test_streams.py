"""Streams: windows are read ahead, and the scheduler orders them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tests.support.services import Service
from trainer_client import SchedulerClient
from trainer_client.integrations.schedule import schedule
from trainer_client.integrations.streams import ScheduledStream

BATCH, WINDOW = 4, 12
Passes = list[list[list[int]]]


class Stream(IterableDataset[dict[str, Any]]):
    """Numbers under keys, as WebDataset gives samples; each time in another order, as it is told."""

    def __init__(self, samples: int, shuffles: bool = False) -> None:
        self.samples, self.shuffles, self.turn = samples, shuffles, 0

    def set_epoch(self, epoch: int) -> None:
        self.turn = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(self.turn))
        worker = get_worker_info()
        shard = slice(None) if worker is None else slice(worker.id, None, worker.num_workers)
        for number in (order.tolist() if self.shuffles else range(self.samples))[shard]:
            yield {"__key__": f"shard-0/{number}", "x": torch.tensor(number)}


def stream_of(dataset: Any, name: str, client: SchedulerClient, **options: Any) -> ScheduledStream:
    fields = {"modalities": ["audio", "video"], "batch_size": BATCH, "window": WINDOW, "policy": "balance_code"}
    return ScheduledStream(dataset, name=name, url=client, **{"patience": 5.0, **fields, **options})


def train(stream: ScheduledStream, passes: int, until: int | None = None) -> Passes:
    """A loop that trains on numbers; by pass and batch, what came."""
    came: Passes = []
    for _ in range(passes):
        came.append([])
        for index, batch in stream:
            x = batch["x"].float()
            stream.sampler.feedback(index, {"loss": 1 + x / 100, "similarity": torch.sin(x) / 2})
            came[-1].append(batch["x"].tolist())
            if sum(map(len, came)) == until:
                return came
    return came


def flat(passes: Passes) -> list[int]:
    return [number for came in passes for batch in came for number in batch]


@pytest.mark.parametrize("samples", [48, 50, 7, 3])
def test_each_sample_comes_once_each_time_and_what_fills_no_batch_the_next(
    client: SchedulerClient, job_name: str, samples: int
) -> None:
    with stream_of(Stream(samples), job_name, client) as stream:
        came = train(stream, 4)
    whole = 4 * samples // BATCH * BATCH
    assert len(flat(came)) == whole
    counts = [flat(came).count(number) for number in range(samples)]
    assert min(counts) >= 3 and max(counts) <= 4 and sum(counts) == whole
    for start in range(0, len(came[0]) - 2, WINDOW // BATCH):
        assert sorted(flat([came[0][start : start + 3]])) == list(range(start * BATCH, start * BATCH + WINDOW))
    assert client.job(job_name).spec.samples == max(samples, BATCH)


@pytest.mark.parametrize("step", [1, 4, 6, 12, 13, 20])
def test_a_run_goes_on_from_any_step_with_the_same_batches(client: SchedulerClient, job_name: str, step: int) -> None:
    with stream_of(Stream(50, shuffles=True), job_name, client) as stream:
        came = train(stream, 3, until=step)
        state = stream.state_dict()
        for _ in stream:  # what is trained on behind a checkpoint is lost
            break
    with stream_of(Stream(50, shuffles=True), job_name, client) as stream:
        stream.load_state_dict(state)
        came += train(stream, 4 - len(came))
    with stream_of(Stream(50, shuffles=True), f"{job_name}-whole", client) as stream:
        assert flat(came) == flat(train(stream, 3))


def test_a_loop_that_is_broken_off_goes_on_in_the_same_window(client: SchedulerClient, job_name: str) -> None:
    with stream_of(Stream(24), job_name, client) as stream:
        came = train(stream, 1, until=1)
        for _ in stream:  # looked at, and not trained on: it comes again
            break
        came += train(stream, 1)
    assert sorted(flat(came)) == list(range(24))


def test_workers_of_a_loader_may_read_each_its_shard(client: SchedulerClient, job_name: str) -> None:
    dataset = DataLoader(Stream(24), batch_size=None, num_workers=2, persistent_workers=True)
    with stream_of(dataset, job_name, client) as stream:
        came = train(stream, 1, until=4)
        state = stream.state_dict()
    with stream_of(dataset, job_name, client) as stream:
        stream.load_state_dict(state)
        came += train(stream, 1)
    assert sorted(flat(came)) == list(range(24))


def test_a_kill_changes_nothing(start_service: Callable[..., Service]) -> None:
    service = start_service()
    with service.client() as client:
        with stream_of(Stream(30), "run", client) as stream:
            came = train(stream, 3, until=4)
            service.kill()
            service.start()
            came += train(stream, 1)
        with stream_of(Stream(30), "whole", client) as stream:
            assert flat(came) == flat(train(stream, 1))


def test_a_swap_reaches_a_window_that_has_begun(client: SchedulerClient, job_name: str) -> None:
    with stream_of(Stream(24), job_name, client, policy="uniform") as stream:
        came = train(stream, 1, until=1)
        stream.sampler.flush()
        assert client.swap(job_name, "balance_code", at="now").first_step >= 1
        came += train(stream, 1)
    assert sorted(flat(came)) == list(range(24))


def test_a_key_may_be_made_of_a_sample(client: SchedulerClient, job_name: str) -> None:
    with stream_of([{"x": torch.tensor(k)} for k in range(8)], job_name, client, key=lambda s: f"{s['x']}") as stream:
        assert sorted(flat(train(stream, 1))) == list(range(8))


@pytest.mark.parametrize("stop", [None, 1, 2, 4])
def test_samples_of_one_key_come_each_and_are_told_of(client: SchedulerClient, job_name: str, stop: int | None) -> None:
    """As where the shards of a WebDataset number their samples alike: 12 samples of a window have 6 keys."""
    dataset = [{"__key__": f"{k % 6}", "x": torch.tensor(k)} for k in range(24)]
    came: Passes = []
    with pytest.warns(UserWarning, match="sample (6|18) of the stream has the key '0' of another in its window"):
        with stream_of(dataset, job_name, client) as stream:
            came += train(stream, 1, until=stop)
            state = stream.state_dict()
        if stop is not None:
            with stream_of(dataset, job_name, client) as stream:
                stream.load_state_dict(state)
                came += train(stream, 1)
    assert sorted(flat(came)) == list(range(24))
    assert client.job(job_name).spec.samples == 6


@pytest.mark.parametrize(
    ("dataset", "options", "reason"),
    [
        ([{"x": 0}], {}, "sample 0 of the stream must have a key under '__key__', or give key=…"),
        ([{"__key__": 7}], {}, "sample 0 of the stream must have a key that is a str, got a int"),
        ([], {"window": 6}, "window must be a multiple of batch_size = 4, got 6"),
        ([], {"if_exists": "resume"}, "if_exists must be fail or new for a stream, got 'resume'"),
        ([], {"on_outage": "local"}, "on_outage must be wait or raise for a stream, got 'local'"),
        ([], {"window": 4 * 1001}, "interval must be at most 1000 steps"),
    ],
)
def test_a_stream_that_can_not_be_is_refused_by_name(
    client: SchedulerClient, job_name: str, dataset: Any, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Exception, match=reason), stream_of(dataset, job_name, client, **options) as stream:
        train(stream, 1)


def test_one_of_several_ranks_is_refused(
    client: SchedulerClient, job_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match="a stream must be read by one rank alone, got rank 1 of 2"):
        stream_of(Stream(24), job_name, client)


def test_another_stream_does_not_go_on_from_a_checkpoint(client: SchedulerClient, job_name: str) -> None:
    with stream_of(Stream(48), job_name, client) as stream:
        train(stream, 1, until=4)
        state = stream.state_dict()
    with (
        stream_of(Stream(48, shuffles=True), job_name, client) as stream,
        pytest.raises(ValueError, match="the stream must give the same samples again: the window of step 3 had"),
    ):
        stream.load_state_dict(state)
        train(stream, 1)
    with (
        stream_of(Stream(8), job_name, client) as stream,
        pytest.raises(ValueError, match=r"the stream must have more than 12 samples, as when .* got 8"),
    ):
        stream.load_state_dict(state)


def test_schedule_names_it() -> None:
    with pytest.raises(TypeError, match=r"a stream is scheduled by .*streams\.ScheduledStream"):
        schedule(DataLoader(Stream(8), batch_size=4), name="run", modalities=["audio", "video"])
