"""Wrong frames, messages, artefacts and JSON by the million: each is refused by name or read and written again alike.

    make fuzz        (or: python -m tests.fuzz.frames --cases 1000000 --seed 0)

A reader may raise what its docstring says and nothing else, warns of nothing, is done within a second of processor time
and keeps no memory. A refusal can be told as a problem. Case k of a seed is always the same: --only k runs it alone.
"""

import argparse
import faulthandler
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import pydantic
import pydantic_core
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request

from benchmarks.watch import MB, resident
from bss_service.errors import MalformedError
from bss_service.http import problems
from bss_service.job.snapshot import Snapshot, take_snapshot
from bss_service.policies import artefact
from bss_service.policies.artefact import AnyArtefact, ArtefactError
from bss_service.policies.shipped import shipped_judge
from bss_service.protocol import frames
from bss_service.protocol.message import Message
from tests.bss_service.protocol.test_messages import MESSAGES
from tests.conftest import Trainer
from tests.fuzz.mutations import OF_FRAMES, OF_JSON, Change, mutated
from tests.support.trained import made_up

CASE_SECONDS: Final = 1.0  # of processor time
HANG_SECONDS: Final = 60  # for a thousand cases; then the tracebacks are written and the process ends
GROWTH_BYTES: Final = 32 * MB  # kept, from the first twentieth of a run to its end
PEAK_BYTES: Final = 256 * MB  # ever held above what the run began with
REQUEST: Final = Request({"type": "http", "method": "PUT", "path": "/", "headers": []})


@dataclass(frozen=True)
class Target:
    """A reader of bytes, the writer that it must agree with, and valid bytes to begin with."""

    name: str
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    valid: Sequence[bytes]
    changes: Sequence[Change]
    refusals: tuple[type[Exception], ...] = (frames.FrameError, pydantic.ValidationError)


@dataclass
class Tally:
    """What became of the cases."""

    cases: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)  # processor seconds, and the case
    warm: int = 0  # bytes resident after the first twentieth
    growth: int = 0
    peak: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so many, done or not")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case alone, and print its bytes")
    args = parser.parse_args()
    if args.only is not None:
        target, data = case(targets(), args.seed, args.only)
        print(target.name, data)
        attempt(target, data)
        return
    faulthandler.enable()
    started = time.perf_counter()
    tally = fuzz(args.cases, args.seed, seconds=60 * args.minutes)
    for line in report(tally, args.seed, time.perf_counter() - started):
        print(line)
    sys.exit(1 if tally.failures else 0)


def fuzz(cases: int, seed: int, seconds: float = np.inf) -> Tally:
    """Run cases 0 to `cases` of a seed, as many as fit in a time."""
    world, tally = targets(), Tally()
    end = time.monotonic() + seconds
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(cases):
            if number % 1000 == 0:
                faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
                if time.monotonic() > end:
                    break
            if number == cases // 20:
                tally.warm = _resident()
            target, data = case(world, seed, number)
            run(target, data, number, tally)
    faulthandler.cancel_dump_traceback_later()
    tally.growth = _resident() - tally.warm
    tally.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    for name, held, limit in (("grew by", tally.growth, GROWTH_BYTES), ("peaked at", tally.peak, PEAK_BYTES)):
        if held > limit:
            tally.failures.append(f"memory {name} {held / MB:.0f} MB, allowed are {limit / MB:.0f}")
    return tally


def case(world: Sequence[Target], seed: int, number: int) -> tuple[Target, bytes]:
    """The bytes of a case, and who is to read them."""
    rng = Random(seed * 2**40 + number)
    target = rng.choice(world)
    return target, mutated(rng, rng.choice(target.valid), rng.choice(world).valid, target.changes)


def attempt(target: Target, data: bytes) -> bool:
    """Whether the bytes were read; what is read survives being written. Raises whatever should not happen."""
    try:
        message = target.read(data)
    except target.refusals as error:
        tell(error)
        return False
    again = target.read(target.write(message))
    if not same(_content(again), _content(message)):
        raise AssertionError(f"written and read again it is {again!r:.300}, it was {message!r:.300}")
    return True


def tell(error: Exception) -> None:
    """Answer a refusal as the service does."""
    if isinstance(error, pydantic.ValidationError):
        problems._invalid(REQUEST, RequestValidationError(error.errors(include_url=False)))
    else:
        shown = error if isinstance(error, ArtefactError) else MalformedError(f"body can't be read: {error}")
        problems._expected(REQUEST, shown)


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, NaN and dtypes included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other))


def targets() -> list[Target]:
    """All that reads bytes of strangers."""
    messages = {kind: [kind.model_validate(fields)] for kind, fields in MESSAGES.items()}
    messages[Snapshot] = [_snapshot("balance"), _snapshot("bandit"), _snapshot("external")]
    all_frames = [message.to_frame() for known in messages.values() for message in known]
    artefacts = [made_up(d, (2,)) for d in ("gaussian", "squashed_gaussian", "categorical")]
    judge = shipped_judge().data
    normalised = made_up("gaussian", (), normaliser={"clip": 10.0, "epsilon": 1e-8})
    world = [
        Target("frames.decode", frames.decode, frames.encode, [*all_frames, *artefacts], OF_FRAMES),
        Target(
            "artefact.read_any", artefact.read_any, _write, [*artefacts, normalised, judge], OF_FRAMES, (ArtefactError,)
        ),
    ]
    for kind, known in messages.items():
        in_frames, in_json = [m.to_frame() for m in known], [_dump(m) for m in known]
        world.append(Target(f"{kind.__name__}.from_frame", kind.from_frame, kind.to_frame, in_frames, OF_FRAMES))
        world.append(Target(f"{kind.__name__} of JSON", _reader(kind), _dump, in_json, OF_JSON, (ValueError,)))
    return world


def report(tally: Tally, seed: int, seconds: float) -> Iterator[str]:
    """The lines of the result."""
    cases, accepted = tally.cases.total(), tally.accepted.total()
    yield f"{cases:,} cases of seed {seed} on {len(tally.cases)} readers in {seconds:.0f} s:"
    yield f"{cases - accepted:,} refused by name, {accepted:,} read, and the same again when written."
    yield f"Slowest: {1000 * tally.slowest[0]:.1f} ms of processor time, case {tally.slowest[1]}."
    yield f"Memory: {tally.growth / MB:+.1f} MB after the first twentieth, allowed {GROWTH_BYTES / MB:.0f};"
    yield f"peak {tally.peak / MB:+.1f} MB, allowed {PEAK_BYTES / MB:.0f}."
    yield f"Failures: {len(tally.failures)}."
    yield from tally.failures[:20]


def run(target: Target, data: bytes, number: int, tally: Tally) -> None:
    """One case, into the tally."""
    started = time.thread_time()
    tally.cases[target.name] += 1
    try:
        tally.accepted[target.name] += attempt(target, data)
    except Exception as error:
        tally.failures.append(f"case {number}, {target.name}: {type(error).__name__}: {error!s:.300}")
    taken = time.thread_time() - started
    tally.slowest = max(tally.slowest, (taken, number))
    if taken > CASE_SECONDS:
        tally.failures.append(f"case {number}, {target.name}: took {taken:.1f} s")


def _reader(kind: type[Message]) -> Callable[[bytes], Message]:
    def read(data: bytes) -> Message:
        """As the client reads an answer, and as the service reads a body."""
        with suppress(ValueError):
            kind.model_validate_json(data)
        return kind.model_validate(pydantic_core.from_json(data))

    return read


def _dump(message: Message) -> bytes:
    return message.model_dump_json().encode()


def _write(read: AnyArtefact) -> bytes:
    return artefact.write(read.manifest.model_dump(exclude={"sha256"}), read.tensors)


def _content(message: Any) -> Any:
    if isinstance(message, AnyArtefact):
        return [message.manifest.model_dump(), dict(message.tensors)]
    return message.model_dump() if isinstance(message, Message) else message


def _snapshot(policy: str) -> Snapshot:
    trainer = Trainer(policy, patience=0.0)
    for _ in range(4):
        if policy == "external" and trainer.job.served == trainer.job.planned_until:
            trainer.act("hard")
        trainer.train(1)
    trainer.take()
    trainer.feed(trainer.job.served - 1, rank=0, world_size=2)  # JSON can't say the shape of an array without rows
    return take_snapshot(trainer.job)


def _resident() -> int:
    return resident(int(Path("/proc/self").resolve().name))


if __name__ == "__main__":
    main()
