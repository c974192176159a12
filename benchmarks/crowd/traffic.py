"""Trainers without a model, many at once: what they send is realistic, and every answer that they get is checked.

A rank is a thread; the ranks of a job share a process. What must hold: every rank gets the same batches, feedback is
applied once and a repetition changes nothing, epochs are whole, and in the end the job's table and ledger hold every
measurement that was made, each once.
"""

import threading
import time
import zlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Final, Literal, Self, TypeVar

import numpy as np

from bss_service.job.snapshot import Snapshot
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import Batches, Feedback, FeedbackRequest, StepsRequest
from tests.support.simulated import report
from trainer_client.client import SchedulerClient
from trainer_client.errors import OutageError

ONE_RANK: Final = "first of an interval, one rank"  # it waits for nobody: the time to draw a plan is in it
KINDS: Final = ("hot call", "first of an interval", ONE_RANK, "feedback again", "batches again", "validation", "swap")
PATIENCE: Final = 60.0  # of the jobs: a rank is never so late
WARM_UP_SECONDS: Final = 900.0
ENDING_SECONDS: Final = 300.0  # for the last calls and the checks at the end
WARM_COUNT: Final = 16  # steps of one call
KEPT: Final = 40  # steps of a job that are asked for again at the end
POLICIES: Final[dict[str, Sequence[tuple[str, dict[str, object]]]]] = {
    "epoch": [  # each sample once an epoch, whatever is swapped for whatever
        ("uniform", {}),
        ("balance", {"coverage": "epoch"}),
        ("fixed", {"coverage": "epoch", "kappa_loss": 1.0, "kappa_stale": 0.5}),
    ],
    "any": [("balance", {}), ("curriculum", {}), ("self_paced", {}), ("bandit", {}), ("learned", {})],
}
A = TypeVar("A")


@dataclass(frozen=True)
class Workload:
    """A job, and how its ranks go about it."""

    spec: JobSpec
    coverage: Literal["epoch", "any"]
    ranks: int = 4
    count: int = 1  # steps of one hot call
    json_ranks: Sequence[int] = ()  # those that speak JSON instead of frames
    warm_up: int = 0  # steps taken sixteen at a time, without a pause, before anything else
    pace: float = 1.0  # times the pause of a phase
    swap_every: int | None = None  # intervals
    repeat: float = 0.02  # share of the calls after which feedback, or batches, are asked for again


@dataclass(frozen=True)
class Phase:
    """A part of a run in which each rank begins a step every `pause` seconds, or as soon as it can."""

    name: str
    seconds: float
    pause: float = 0.0


@dataclass
class Findings:
    """What the ranks of one process saw. times: (kind, monotonic second of the answer, seconds it took) flat."""

    times: "array[float]" = field(default_factory=lambda: array("d"))
    outages: int = 0  # calls that got no answer and were made again
    steps: int = 0
    epochs: int = 0  # finished and checked for coverage
    due: int = 0  # rows of feedback that these steps have: one a rank
    applied: int = 0
    repeated: int = 0
    wrong: list[str] = field(default_factory=list)

    def calls(self) -> np.ndarray:
        """The calls, (k, 3)."""
        return np.array(self.times).reshape(-1, 3)

    def during(self, begin: float, end: float) -> np.ndarray:
        """The calls that were answered between two monotonic seconds, (k, 3)."""
        calls = self.calls()
        return calls[(calls[:, 1] >= begin) & (calls[:, 1] < end)]

    def add(self, other: "Findings") -> None:
        """Take in those of another process."""
        for name in ("times", "outages", "steps", "epochs", "due", "applied", "repeated", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Job:
    """What the ranks of a job agree on; methods may be called from all of their threads."""

    def __init__(self, workload: Workload, findings: Findings, lock: threading.Lock) -> None:
        self.workload = workload
        self.findings = findings
        self._lock = lock  # that of the findings, which all jobs of a process share
        self.calendar = workload.spec.calendar()
        self.kept: dict[int, int] = {}  # step -> digest of its batch
        self._reach = 0  # no rank has asked for a later step
        self._stop: int | None = None
        self._digests: dict[int, list[int]] = {}  # step -> its digest, and how many ranks have seen it
        self._seen = np.zeros(workload.spec.samples, dtype=np.int64)  # draws of each sample in this epoch
        self._epoch = 0
        self.learnt = np.zeros(workload.spec.samples, dtype=np.int64)  # draws before this interval
        self.interval: list[np.ndarray] = []  # batches of this interval
        self._rng = np.random.default_rng(workload.spec.seed)

    def wrong(self, sentence: str) -> None:
        """Note a violation; the job ends."""
        with self._lock:
            self.findings.wrong.append(f"{self.workload.spec.name}: {sentence}")
            self._stop = 0

    def room(self, step: int, over: bool) -> int:
        """How many steps a rank may ask for; 0 at the end, which is the same step for all ranks."""
        with self._lock:
            if over and self._stop is None:
                self._stop = self._reach
            room = WARM_COUNT if step < self.workload.warm_up else self.workload.count
            if self._stop is not None:
                room = max(0, min(room, self._stop - step))
            self._reach = max(self._reach, step + room)
            return room

    def end(self) -> int:
        """The step at which all ranks have stopped."""
        return self._reach

    def saw(self, batches: Batches) -> None:
        """Compare a rank's batches with those of the others; the first to see a step accounts for its samples."""
        for k, samples in enumerate(batches.indices):
            step, digest = batches.start + k, digest_of(batches, k)
            with self._lock:
                known = self._digests.setdefault(step, [digest, 0])
                if known[1] == 0:
                    self._account(step, samples, digest)
                known[1] += 1
                if known[1] == self.workload.ranks:
                    del self._digests[step]
            if known[0] != digest:
                self.wrong(f"ranks got different batches for step {step}")

    def time(self, kind: str, seconds: float) -> None:
        """Note how long a call took."""
        with self._lock:
            self.findings.times.extend((KINDS.index(kind), time.monotonic(), seconds))

    def count(self, applied: int, repeated: int, outages: int) -> None:
        """Add a rank's counters."""
        with self._lock:
            self.findings.applied += applied
            self.findings.repeated += repeated
            self.findings.outages += outages

    def _account(self, step: int, samples: np.ndarray, digest: int) -> None:
        self.findings.steps += 1
        self.findings.due += self.workload.ranks
        if step == self.calendar.interval_bounds(step)[0]:
            for batch in self.interval:
                np.add.at(self.learnt, batch, 1)
            self.interval = []
        self.interval.append(samples)
        if len(self.kept) < KEPT or self._rng.random() < 0.02:
            if len(self.kept) == KEPT:
                del self.kept[int(self._rng.choice(list(self.kept)))]
            self.kept[step] = digest
        if self.workload.coverage == "epoch":
            offset = step * self.calendar.batch_size
            for epoch, start, stop in self.calendar.segments(step, step + 1):
                if epoch > self._epoch:
                    self._finish_epoch()
                np.add.at(self._seen, samples[start - offset : stop - offset], 1)

    def _finish_epoch(self) -> None:
        if (self._seen != 1).any():
            times = np.unique(self._seen).tolist()
            self.findings.wrong.append(f"{self.workload.spec.name}: samples came {times} times in epoch {self._epoch}")
        self._seen[:] = 0
        self._epoch += 1
        self.findings.epochs += 1


class Rank:
    """One client of a job."""

    def __init__(self, url: str, job: Job, rank: int, phases: Sequence[Phase], outage: float) -> None:
        self._trade, self._job, self._rank = job.workload, job, rank
        self._spec, self._name = job.workload.spec, job.workload.spec.name
        self._phases, self._outage = phases, outage
        wire: Literal["frame", "json"] = "json" if rank in job.workload.json_ranks else "frame"
        self._client = SchedulerClient(url, retries=0, timeout=30.0, wire=wire)
        self._rng = np.random.default_rng([self._spec.seed, rank])
        self._applied = self._repeated = self._outages = self._swaps = 0

    def run(self) -> None:
        """Train until the last phase is over; whatever goes wrong is noted."""
        try:
            with self._client:
                self._train()
        except Exception as error:
            self._job.wrong(f"rank {self._rank}: {type(error).__name__}: {error}")
        self._job.count(self._applied, self._repeated, self._outages)

    def _train(self) -> None:
        step, feedback = 0, None
        while room := self._job.room(step, self._pause() is None):
            started = time.monotonic()
            boundary = step == self._job.calendar.interval_bounds(step)[0]
            if boundary and step and self._rank == 0:
                self._report(step)
            request = StepsRequest(
                rank=self._rank, world_size=self._trade.ranks, start=step, count=room, feedback=feedback
            )
            first = "first of an interval" if self._trade.ranks > 1 else ONE_RANK
            kind = first if boundary else "hot call"
            answer, again = self._call(kind, lambda r=request: self._client.steps(self._name, r, PATIENCE))
            self._check_outcomes(answer.feedback, again)
            if not answer.batches.start == step or not 1 <= len(answer.batches.indices) <= room:
                raise AssertionError(f"asked for {room} steps from {step}, got {len(answer.batches.indices)}")
            self._job.saw(answer.batches)
            if self._rng.random() < self._trade.repeat:
                self._repeat(request, answer.batches)
            feedback = measured(answer.batches, self._rank, self._trade.ranks)
            step += len(answer.batches.indices)
            if step >= self._trade.warm_up:
                due = started + self._trade.pace * (self._pause() or 0.0)
                time.sleep(max(0.0, due - time.monotonic()))
        if feedback is not None:
            last = self._request(feedback)
            answer, again = self._call("feedback again", lambda: self._client.feedback(self._name, last))
            self._check_outcomes(answer.feedback, again)

    def _report(self, step: int) -> None:
        receipt, again = self._call("validation", lambda: self._client.validation(self._name, report(step)))
        if receipt.outcome != "applied" and not again:
            raise AssertionError(f"the report of step {step} was {receipt.outcome}")
        every = self._trade.swap_every
        number = step // max(1, self._job.calendar.interval_bounds(0)[1])
        if every is not None and number % every == 0:
            self._swaps += 1
            policies = POLICIES[self._trade.coverage]
            policy, parameters = policies[self._swaps % len(policies)]
            at: Literal["now", "next_interval"] = "now" if self._swaps % 2 else "next_interval"
            self._call("swap", lambda: self._client.swap(self._name, policy, parameters, at))

    def _repeat(self, request: StepsRequest, batches: Batches) -> None:
        """A trainer that lost an answer: the same feedback, and the same batches, again."""
        if request.feedback is not None:
            again = self._request(request.feedback)
            answer, _ = self._call("feedback again", lambda: self._client.feedback(self._name, again))
            self._check_outcomes(answer.feedback, unanswered=False, expected="repeated")
        start, count = batches.start, len(batches.indices)
        known, _ = self._call("batches again", lambda: self._client.batches(self._name, start, count))
        if [digest_of(known, k) for k in range(count)] != [digest_of(batches, k) for k in range(count)]:
            raise AssertionError(f"steps from {start} on were answered with other batches when asked again")

    def _request(self, feedback: Feedback) -> FeedbackRequest:
        return FeedbackRequest(rank=self._rank, world_size=self._trade.ranks, feedback=feedback)

    def _check_outcomes(self, outcomes: Sequence[str], unanswered: bool, expected: str = "applied") -> None:
        """Applied the first time and repeated afterwards; after a try without an answer either may be."""
        allowed = {expected, "repeated"} if unanswered else {expected}
        if not set(outcomes) <= allowed:
            raise AssertionError(f"feedback was {sorted(set(outcomes))}, expected {sorted(allowed)}")
        if expected == "applied":
            self._applied += len(outcomes)
        else:
            self._repeated += len(outcomes)

    def _call(self, kind: str, call: Callable[[], A]) -> tuple[A, bool]:
        """The answer, and whether an earlier try got none."""
        give_up = time.monotonic() + self._outage
        unanswered = False
        while True:
            started = time.perf_counter()
            try:
                answer = call()
            except OutageError:
                if time.monotonic() > give_up:
                    raise
                self._outages += 1
                unanswered = True
                time.sleep(0.1)
            else:
                self._job.time(kind, time.perf_counter() - started)
                return answer, unanswered

    def _pause(self) -> float | None:
        """Seconds from step to step now; None once all phases are over."""
        elapsed = time.monotonic() - _beginning.value
        for phase in self._phases:
            elapsed -= phase.seconds
            if elapsed < 0:
                return phase.pause
        return None


def measured(batches: Batches, rank: int, ranks: int) -> Feedback:
    """What a rank's model might measure of its rows: a function of step and sample."""
    share = batches.indices.shape[1] // ranks
    rows = batches.indices[:, rank * share : (rank + 1) * share]
    steps = np.arange(batches.start, batches.start + len(rows))
    x = (np.sin(rows * 12.9898 + steps[:, None] * 0.37) * 0.5 + 0.5).astype(np.float32)
    return Feedback(step=steps, similarity=x, loss=3 - 2 * x, probability=np.stack([x, x, x], axis=2))


def digest_of(batches: Batches, k: int) -> int:
    """CRC-32 of all that is told of a step's batch."""
    about = np.array([batches.policy_version[k], batches.epoch[k], batches.scored_until[k]])
    return zlib.crc32(about, zlib.crc32(batches.probabilities[k], zlib.crc32(batches.indices[k])))


class Crew:
    """Trainers at work in processes of their own; they end with the context.

    outage: seconds for which a call that gets no answer is made again; with 0, none is.
    """

    def __init__(
        self, url: str, trades: Sequence[Workload], phases: Sequence[Phase], *, processes: int, outage: float = 0.0
    ) -> None:
        context = get_context("spawn")
        self._url, self._trades = url, trades
        self._seconds = sum(phase.seconds for phase in phases) + outage + ENDING_SECONDS
        self._begin = context.Value("d", np.inf)
        self._pool = context.Pool(processes, _know, (self._begin,))
        shares = [trades[k::processes] for k in range(processes)]
        self._results = [self._pool.apply_async(work, (url, share, phases, outage)) for share in shares]

    def begin(self, patience: float = WARM_UP_SECONDS) -> float:
        """Let the first phase begin once every job is warm, at most so many seconds from now; the monotonic second."""
        give_up = time.monotonic() + patience
        warm = {workload.spec.name: workload.warm_up for workload in self._trades}
        with SchedulerClient(self._url, timeout=120.0) as client:  # the list waits for each busy job in turn
            while time.monotonic() < give_up:
                reached = {job.spec.name: job.next_step for job in client.jobs().jobs}
                if all(reached.get(name, -1) >= step for name, step in warm.items()):
                    break
                time.sleep(2)
        self._begin.value = time.monotonic()
        return self._begin.value

    def findings(self) -> Findings:
        """All that was found, at the end; a process that broke or hangs is a violation."""
        findings = Findings()
        for result in self._results:
            try:
                findings.add(result.get(max(1.0, self._begin.value + self._seconds - time.monotonic())))
            except Exception as error:
                findings.wrong.append(f"trainers broke: {type(error).__name__}: {error}")
        if findings.applied != findings.due:
            findings.wrong.append(f"feedback was applied {findings.applied} times, {findings.due} were due")
        return findings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()


_beginning: Any = None  # of the first phase, as a monotonic second; a process of a crew is told it when it starts


def _know(begin: Any) -> None:
    global _beginning
    _beginning = begin


def work(url: str, trades: Sequence[Workload], phases: Sequence[Phase], outage: float) -> Findings:
    """Run all ranks of some jobs in this process, and check the jobs afterwards."""
    findings = Findings()
    lock = threading.Lock()
    jobs = [Job(workload, findings, lock) for workload in trades]
    with SchedulerClient(url) as client:
        for workload in trades:
            client.create_job(workload.spec)
        ranks = [Rank(url, job, rank, phases, outage) for job in jobs for rank in range(job.workload.ranks)]
        threads = [threading.Thread(target=rank.run) for rank in ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for job in jobs:
            try:
                check(client, job)
            except Exception as error:
                job.wrong(f"at the end: {type(error).__name__}: {error}")
    return findings


def check(client: SchedulerClient, job: Job) -> None:
    """What the service holds of a job in the end is what its ranks have done, each measurement once."""
    name, end = job.workload.spec.name, job.end()
    state = client.job(name)
    if (state.next_step, state.steps_fed_back) != (end, end):
        job.wrong(f"{end} steps were done, the service tells {state.next_step} and {state.steps_fed_back} fed back")
    for step, digest in job.kept.items():
        batches = client.batches(name, step)
        if digest_of(batches, 0) != digest:
            job.wrong(f"step {step} has another batch in the end")
        for rank in range(job.workload.ranks):
            request = FeedbackRequest(
                rank=rank, world_size=job.workload.ranks, feedback=measured(batches, rank, job.workload.ranks)
            )
            if client.feedback(name, request).feedback != ["repeated"]:
                job.wrong(f"feedback for step {step} of rank {rank} counted again in the end")
    held = Snapshot.from_frame(client.snapshot(name))
    waiting = [held.ledger.waiting.indices]
    if not np.array_equal(held.table.times_measured, job.learnt):
        off = int((held.table.times_measured != job.learnt).sum())
        job.wrong(f"{off} samples were learnt from more or less often than they were measured")
    if not np.array_equal(_sorted(waiting), _sorted(job.interval)) or len(held.ledger.partial_steps):
        job.wrong("the feedback that waits is not that of the last interval")


def _sorted(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate([part.reshape(-1) for part in parts])) if parts else np.empty(0)
