"""Signals, exceptions and a plain exit leave nothing behind: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.support.services import Service
from tests.support.simulated import spec
from tests.trainer_client.support.clusters import clusters
from tests.trainer_client.support.proxy import Proxy
from trainer_client import ScheduledBatchSampler, SchedulerClient, SchedulerError, WithIndex
from trainer_client.reference.checkpoint import read_checkpoint

NUMBERS = count()
SLOW = 30.0  # seconds that the proxy holds a request
HANG = 12.0  # seconds: whoever takes longer to end waits for something; far less than SLOW


class Process:
    """A process in a group of its own, as a shell would start it."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.output: list[str] = []
        self._changed = threading.Condition()
        self._readers = [threading.Thread(target=self._read, args=(stream,)) for stream in self._streams()]
        for reader in self._readers:
            reader.start()

    def _streams(self) -> list[Any]:
        return [self.process.stdout, self.process.stderr]

    def _read(self, stream: Any) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self.output.append(line.strip())
                    self._changed.notify_all()
        with self._changed:
            self.output.append("")
            self._changed.notify_all()

    def wait_for(self, words: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: any(words in line for line in self.output), 40), self.output

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Its exit status; nobody of its group may be left."""
        try:
            status = self.process.wait(HANG)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            pytest.fail(f"it hangs: {self.output}")
        for reader in self._readers:
            reader.join(HANG)
        assert self.process.stdin is not None
        self.process.stdin.close()
        with pytest.raises(ProcessLookupError):
            os.killpg(self.process.pid, 0)
        return status

    def left(self) -> dict[str, Any]:
        """What the loop's last line tells."""
        answer: dict[str, Any] = json.loads(next(line for line in reversed(self.output) if line.startswith("{")))
        return answer


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    opened = Proxy(service.port, delay=SLOW)
    yield opened
    opened.close()


@pytest.fixture
def job_name() -> str:
    return f"interrupts-{next(NUMBERS)}"


def there(proxy: Proxy) -> None:
    """The service is there."""


def slow(proxy: Proxy) -> None:
    """The service answers late."""
    proxy.faults = {"delayed": 1}


def gone(proxy: Proxy) -> None:
    """The service is out of reach."""
    proxy.down()


def fed_back(client: SchedulerClient, job: str) -> int:
    return client.job(job).steps_fed_back


@pytest.mark.parametrize(
    ("ending", "becomes"),
    [
        (signal.SIGINT, slow),
        pytest.param(signal.SIGINT, gone, marks=pytest.mark.long),
        pytest.param("exception", there, marks=pytest.mark.long),
        pytest.param("exception", slow, marks=pytest.mark.long),
        ("exception", gone),
    ],
)
def test_a_users_loop_ends_and_leaves_nothing(
    proxy: Proxy,
    client: SchedulerClient,
    job_name: str,
    becomes: Callable[[Proxy], None],
    ending: signal.Signals | str,
) -> None:
    named = ending if isinstance(ending, str) else "signal"
    loop = Process("-m", "tests.trainer_client.support.loop", proxy.url, job_name, "2", named)
    loop.wait_for("training")
    becomes(proxy)
    if isinstance(ending, str):
        loop.tell()
    else:
        if becomes is gone:
            loop.wait_for("out of reach, trying on")
        if becomes is slow:
            assert proxy.held.wait(40)
        os.killpg(loop.process.pid, ending)  # as a terminal does
    assert loop.end() == 0
    left = loop.left()
    assert (left["threads"], left["sockets"], left["children"]) == ([], 0, 0)
    proxy.faults = {}
    acknowledged = set(range(left["step"])) - set(left["unsent"])
    assert len(acknowledged) <= fed_back(client, job_name) <= left["step"]
    assert left["unsent"] == [] or becomes is not there


@pytest.mark.parametrize(
    ("ending", "becomes"), [("forgotten", slow), pytest.param("left open", gone, marks=pytest.mark.long)]
)
def test_a_sampler_that_is_not_closed_holds_nothing_up(
    proxy: Proxy, job_name: str, ending: str, becomes: Callable[[Proxy], None]
) -> None:
    loop = Process("-m", "tests.trainer_client.support.loop", proxy.url, job_name, "0", ending)
    loop.wait_for("training")
    becomes(proxy)
    loop.tell()
    assert loop.end() == 0
    if ending == "forgotten":
        assert (loop.left()["threads"], loop.left()["sockets"]) == ([], 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = clusters()
    path = tmp_path_factory.mktemp("data") / "clusters.npz"
    names = {"modalities": np.array(list(made.modalities)), "classes": np.array(made.classes)}
    np.savez(path, **made.modalities, **names, y=made.labels, split=made.split)
    return path


class TestReference:
    """`python -m trainer_client.reference`."""

    def start(self, data: Path, url: str, job: str, checkpoint: Path, *flags: str) -> Process:
        command = f"-m trainer_client.reference --data {data} --url {url} --job {job} --batch-size 32 --policy bandit"
        return Process(*command.split(), "--checkpoint", str(checkpoint), *flags)

    @pytest.mark.parametrize(
        ("number", "workers", "becomes"),
        [
            (signal.SIGINT, "2", there),
            pytest.param(signal.SIGINT, "2", slow, marks=pytest.mark.long),
            pytest.param(signal.SIGINT, "0", gone, marks=pytest.mark.long),
            pytest.param(signal.SIGTERM, "2", gone, marks=pytest.mark.long),
        ],
    )
    def test_one_signal_ends_it_with_its_checkpoint(
        self,
        proxy: Proxy,
        client: SchedulerClient,
        job_name: str,
        tmp_path: Path,
        data: Path,
        becomes: Callable[[Proxy], None],
        number: signal.Signals,
        workers: str,
    ) -> None:
        checkpoint = tmp_path / "run.pt"
        trainer = self.start(data, proxy.url, job_name, checkpoint, "--workers", workers, "--epochs", "100000")
        trainer.wait_for("epoch   1")
        becomes(proxy)
        if becomes is gone:
            trainer.wait_for("out of reach, trying on")
        if becomes is slow:
            assert proxy.held.wait(40)
        asked = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(trainer.process.pid, number)
        else:
            trainer.process.send_signal(number)
        assert trainer.end() == 3, trainer.output
        assert time.monotonic() - asked < HANG
        assert "Traceback" not in " ".join(trainer.output)
        state = read_checkpoint(checkpoint)["sampler"]
        unsent = {saved["step"] for saved in state["unsent"] if "step" in saved}
        assert len(set(range(state["step"])) - unsent) <= fed_back(client, job_name) <= state["step"]

    def test_one_signal_ends_a_wait_for_a_service_that_was_never_there(
        self, proxy: Proxy, job_name: str, tmp_path: Path, data: Path
    ) -> None:
        proxy.down()
        trainer = self.start(data, proxy.url, job_name, tmp_path / "run.pt", "--epochs", "2")
        trainer.wait_for("out of reach, trying on")
        trainer.process.send_signal(signal.SIGINT)
        assert trainer.end() == 3
        assert "stopped before the run began" in trainer.output


def test_loader_workers_that_are_spawned_get_no_sampler(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name, samples=16, interval=2, lag=4), client) as sampler:
        loader: DataLoader[Any] = DataLoader(
            WithIndex(TensorDataset(torch.arange(16))),
            batch_sampler=sampler,
            num_workers=1,
            multiprocessing_context="spawn",
        )
        for index, _ in loader:
            sampler.feedback(index)
        assert sampler.batches_trained == 2
        with pytest.raises(TypeError, match="can't be sent to another process"):
            sampler.__reduce__()


@pytest.mark.parametrize("taken", [0, 1])
def test_a_forked_process_is_told_to_make_its_own(client: SchedulerClient, job_name: str, taken: int) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        batches = iter(sampler)
        for _ in range(taken):
            next(batches)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                next(batches)
            except SchedulerError as error:
                os.write(writing, str(error).encode())
            finally:
                sampler.close()
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            assert "create it there" in answer.read()
        os.waitpid(child, 0)
        assert len(next(batches)) == 8
        assert [trainer.process for trainer in client.job(job_name).trainers] == [os.getpid()]
