"""Wrong answers to a client by the thousand: it raises an error of its own, in its time, and takes no memory for them.

    make fuzz        (or: python -m tests.fuzz.answers --cases 20000 --seed 0)

The answers are a real service's, cut, flipped, rewritten, nested, grown, without end, or sent a byte now and then. What
a call returns fits what it asked for. Case k of a seed does always the same to the same answer: --only k does it alone.
"""

import argparse
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest import mock

import numpy as np

from benchmarks.watch import MB
from bss_service.protocol.jobs import JobChange
from bss_service.protocol.samples import SampleDescriptions
from bss_service.protocol.training import AttachRequest, FeedbackRequest, LocalBatches, StepsRequest
from bss_service.testing import ServiceProcess
from tests.fuzz.frames import PEAK_BYTES, Tally
from tests.fuzz.mutations import DEPTHS, OF_FRAMES, OF_JSON, cut, flipped, mutated
from tests.support.simulated import measured, report, spec
from tests.trainer_client.support.hostile import END, Hostile, Pieces, with_body
from trainer_client import SchedulerClient, SchedulerError

SECONDS: Final = 0.3  # that a call may take
WIRES: Final = ("frame", "json")
SLACK: Final = 5.0  # more, on a busy machine
JOB: Final = spec("job", patience=0.0)
STATUSES: Final = (
    b"100 x",
    b"200 OK",
    b"204 No",
    b"301 x",
    b"400 x",
    b"401 x",
    b"404 x",
    b"409 x",
    b"425 x",
    b"500 x",
    b"503 x",
)
HEADERS: Final = (
    *(b"content-encoding: gzip", b"content-encoding: br, gzip", b"transfer-encoding: chunked", b"connection: close"),
    *(b"content-type: text/html", b"content-type: application/json", b"content-type: application/problem+json"),
    *(b"retry-after: 99999999999999999999", b"location: \x1b[2J", b"set-cookie: a=b", b"x: " + b"y" * 200_000),
)
Call = Callable[[SchedulerClient], Any]


def _steps(client: SchedulerClient) -> None:
    batches = client.steps("job", StepsRequest(start=0, count=2), 0.0, spec=JOB).batches
    _check(batches)


def _batches(client: SchedulerClient) -> None:
    _check(client.batches("job", 0, 2, spec=JOB))


def _check(batches: Any) -> None:
    steps, size = batches.indices.shape
    fits = batches.start == 0 and 1 <= steps <= 2 and size == 8 and batches.probabilities.shape == (steps, 8)
    if not fits or batches.indices.min() < 0 or batches.indices.max() >= 50 or batches.indices.dtype != np.int64:
        raise AssertionError(f"the call returned {batches!r:.300}")


FIRST: Final = measured(0, np.arange(8))
CALLS: Final[dict[str, Call]] = {
    "create_job": lambda client: client.create_job(JOB),
    "attach": lambda client: client.attach("job", AttachRequest(client="me", host="here", process=1, resume=True)),
    "steps": _steps,
    "batches": _batches,
    "feedback": lambda client: client.feedback("job", FeedbackRequest(feedback=FIRST)),
    "validation": lambda client: client.validation("job", report(1)),
    "create another": lambda client: client.create_job(spec("other")),
    "local_batches": lambda client: client.local_batches("other", LocalBatches(start=0, indices=np.arange(8)[None])),
    "create grouped": lambda client: client.create_job(spec("grouped", groups=3)),
    "jobs": lambda client: client.jobs(),
    "job": lambda client: client.job("job"),
    "policy": lambda client: client.policy("job"),
    "policies": lambda client: client.policies(),
    "decisions": lambda client: client.decisions("job"),
    "samples": lambda client: client.samples("job", "loss", spec=JOB),
    "sample": lambda client: client.sample("job", 3),
    "set_groups": lambda client: client.set_groups("grouped", np.zeros(50, np.uint16)),
    "describe": lambda client: client.describe("job", SampleDescriptions(index=[3], texts=["a dog"])),
    "change_job": lambda client: client.change_job("other", JobChange(samples=60)),
    "register_keys": lambda client: client.register_keys("other", ["a", "b"], spec=spec("other")),
    "observation": lambda client: client.observation("job"),
    "snapshot": lambda client: client.snapshot("job"),
    "refused": lambda client: client.job("missing"),
}


class Player(Hostile):
    """Answers each request by what is set, if it is, and keeps what the service answered otherwise."""

    answer: bytes | None = None
    heard = b""

    def _asked(self, request: bytes) -> bytes:
        if self.answer is None:
            self.heard = super()._asked(request)
        return self.heard if self.answer is None else self.answer


@dataclass(frozen=True)
class World:
    """What all cases share: who answers, who asks by each wire, and the right answers by wire and call."""

    player: Player
    clients: dict[str, SchedulerClient]
    right: dict[tuple[str, str], bytes]


@contextmanager
def world() -> Iterator[World]:
    """A service, asked once for all, and then no more."""
    with tempfile.TemporaryDirectory() as folder, ServiceProcess(Path(folder)) as service:
        player = Player(service.port)
        right = {(wire, name): _right(player, wire, name) for name in CALLS for wire in WIRES}
        clients = {wire: _client(player.url, wire, SECONDS) for wire in WIRES}
        with mock.patch("trainer_client.client.TRIES", 1):
            yield World(player, clients, right)
        for client in clients.values():
            client.close()
        player.close()


def _right(player: Player, wire: str, name: str) -> bytes:
    with _client(player.url, wire, 60.0) as patient:
        try:
            CALLS[name](patient)
        except SchedulerError:
            if name != "refused":
                raise
    return player.heard


def _client(url: str, wire: Any, seconds: float) -> SchedulerClient:
    return SchedulerClient(url, wire=wire, timeout=seconds, retries=0, max_answer=2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case alone")
    args = parser.parse_args()
    started = time.perf_counter()
    numbers = range(args.cases) if args.only is None else [args.only]
    tally = fuzz(numbers, args.seed)
    cases, taken = tally.cases.total(), time.perf_counter() - started
    print(f"{cases:,} answers of seed {args.seed} to {len(tally.cases)} calls in {taken:.0f} s:")
    print(f"{cases - tally.accepted.total():,} refused by an error of the client, {tally.accepted.total():,} taken.")
    print(f"Slowest: {tally.slowest[0]:.1f} s, case {tally.slowest[1]}. Memory: peak {tally.peak / MB:+.1f} MB.")
    print(f"Failures: {len(tally.failures)}.", *tally.failures[:20], sep="\n")
    sys.exit(1 if tally.failures else 0)


def fuzz(numbers: Sequence[int], seed: int) -> Tally:
    """Run these cases of a seed."""
    tally = Tally()
    with world() as shared, warnings.catch_warnings():
        warnings.simplefilter("error")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for number in numbers:
            rng = Random(seed * 2**40 + number)
            wire, name = rng.choice([*shared.right])
            answer = shared.right[wire, name]
            shared.player.answer, shared.player.sent = answer, 0
            pieces = wrong(rng, answer, wire, [*shared.right.values()])
            shared.player.reply = lambda player, _, pieces=pieces: pieces(player)  # type: ignore[misc]
            run(name, CALLS[name], shared.clients[wire], number, tally)
        tally.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if tally.peak > PEAK_BYTES:
        tally.failures.append(f"memory peaked at {tally.peak / MB:.0f} MB")
    return tally


def run(name: str, call: Call, client: SchedulerClient, number: int, tally: Tally) -> None:
    """One case, into the tally."""
    started = time.monotonic()
    tally.cases[name] += 1
    try:
        call(client)
        tally.accepted[name] += 1
    except SchedulerError as error:
        if not str(error).isprintable():
            tally.failures.append(f"case {number}, {name}: an error that moves cursors, {error!r:.300}")
    except Exception as error:
        tally.failures.append(f"case {number}, {name}: {type(error).__name__}: {error!s:.300}")
    taken = time.monotonic() - started
    tally.slowest = max(tally.slowest, (taken, number))
    if taken > SECONDS + SLACK:
        tally.failures.append(f"case {number}, {name}: took {taken:.1f} s")


def wrong(rng: Random, answer: bytes, wire: str, others: Sequence[bytes]) -> Callable[[Player], Pieces]:
    """A wrong answer made of a right one, to be sent piece by piece, again on each connection."""
    head, end, body = answer.partition(END)
    kind = rng.choices(
        ("body", "bytes", "nested", "status", "header", "grown", "endless", "drip"), (60, 9, 5, 8, 8, 4, 2, 1)
    )[0]
    changed = answer
    if kind == "body":
        bodies = [other.partition(END)[2] for other in others]
        changed = with_body(answer, mutated(rng, body, bodies, OF_FRAMES if wire == "frame" else OF_JSON))
    elif kind == "bytes":
        changed = rng.choice((cut, flipped))(rng, answer)
    elif kind == "nested":
        deep = rng.choice((b"[", b'{"a":', b'{"detail":')) * rng.choice(DEPTHS)
        media = rng.choice((b"json", b"problem+json", b"vnd.bss.frame"))
        changed = with_body(answer, deep, b"content-type: application/" + media, status=rng.choice(STATUSES))
    elif kind == "status":
        changed = with_body(answer, rng.choice((body, b"")), status=rng.choice(STATUSES))
    elif kind == "header":
        changed = with_body(answer, body, rng.choice(HEADERS))
    elif kind == "grown":
        changed = with_body(answer, body + rng.choice((b" ", b"[", b"\0", b"{},")) * rng.choice((10, 10**5, 5 * 10**6)))

    def pieces(player: Player) -> Pieces:
        if kind == "drip":
            for byte in answer:
                player.pause(0.05)
                yield bytes([byte])
        elif kind == "endless":
            yield rng.choice((answer, head + end, b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"))
            while True:
                yield b"{}," * 2**14
        yield changed
        if kind in ("bytes", "status", "header"):
            raise ValueError("what is left of the connection is not to be used")

    return pieces


if __name__ == "__main__":
    main()
