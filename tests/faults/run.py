"""Runs a program against the service, and holds every answer and all that it leaves behind against the model."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from bss_service.job.job import Job
from bss_service.job.snapshot import Snapshot, restore
from bss_service.journal.store import Store
from bss_service.journal.transaction import Entry
from bss_service.protocol.actions import ActionRequest
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.message import Message
from bss_service.protocol.policies import PolicySpec, SwapRequest
from bss_service.protocol.training import Feedback, FeedbackRequest, LocalBatches, Scores, StepsRequest
from bss_service.protocol.validation import ModalityReport, ValidationReport
from tests.faults.histories import Call, History, Violation, batches_in
from tests.faults.invariants import objections
from tests.faults.model import Model
from tests.faults.programs import JOBS, POLICIES, Op, Program, Turn, job_spec
from tests.faults.service import Answer, Request, Service

ALONE = {"adopt", "copy", "train", "delete", "create"}  # done by themselves, and by a client that waits
ACTIONS: list[Any] = ["uniform", {"coverage": "draw", "kappa_loss": 2.0}, [0.5] * 11, {"kappa_similarity": 1.0}]


class Run:
    """One program, on jobs of its own."""

    def __init__(self, service: Service, pool: ThreadPoolExecutor, done: "Counter[str]", number: int) -> None:
        self.service = service
        self.done = done
        self._pool = pool
        self._number = number
        self._jobs: dict[str, History] = {}
        self._specs: dict[str, JobSpec] = {}
        self._past: list[Call] = []
        self._logs: dict[str, list[Mapping[str, Any]]] = {}
        self._origins: dict[str, bytes] = {}  # snapshots that copies began with

    def run(self, program: Program) -> None:
        """Raises Violation."""
        for numbers in program.jobs:
            self._new(job_spec(f"p{self._number}-{len(self._jobs)}", numbers))
        for turn in program.turns:
            self._turn(turn)
        self._end()

    @property
    def _restless(self) -> bool:
        """Whether a request that nobody hears the answer of may still be under way."""
        return not all(history.is_certain for history in self._jobs.values())

    # One turn.

    def _turn(self, turn: Turn) -> None:
        if turn.end == "answered" or (turn.end == "together" and any(op.kind in ALONE for op in turn.ops)):
            for op in turn.ops:
                self._alone(op)
            return
        calls = [call for op in turn.ops if op.kind not in ("copy", "train") for call in self._calls(op)]
        if turn.end in ("vanish", "together", "cut"):
            calls = [call for call in calls if call.kind not in ALONE]
        if any(call.kind in ALONE for call in calls):
            calls = calls[:1]
        self._past += calls
        if turn.end == "cut":
            for call in calls:
                self.service.vanish(call.request, sent=0.1 + turn.ops[0].a / 9)
                self.done["requests cut"] += 1
        elif turn.end == "vanish" and not self._restless:
            calls = [call.again(heard=False) for call in calls[:2]]
            for call in calls:
                self.service.vanish(call.request)
            self.done["clients vanished"] += len(calls)
            self._record(calls, dict.fromkeys(calls))
        else:
            self._at_once(calls, turn)
        if turn.end != "together":
            self._settle()

    def _at_once(self, calls: list[Call], turn: Turn) -> None:
        futures = {call: self._pool.submit(self.service.ask, call.request) for call in calls}
        if turn.end in ("together", "vanish"):
            answers = {call: future.result() for call, future in futures.items()}
            self._record(calls, answers, may_fail=any(c.kind == "delete" for c in calls))
            return
        threading.Event().wait(turn.delay / 10_000)  # the moment of death
        in_flight = [call for call, future in futures.items() if not future.done()]
        self._die(turn.end, futures, calls)
        self.done[f"{turn.end}s with requests in flight"] += bool(in_flight)

    def _die(self, how: str, futures: Mapping[Call, "Future[Answer | None]"], calls: list[Call]) -> None:
        if how == "kill":
            self.service.kill()
        else:
            self.service.stop()
        self.done[f"{how}s"] += 1
        answers = {call: future.result() for call, future in futures.items()}
        self._record(calls, answers, may_fail=True)
        for history in self._jobs.values():
            history.died()
        self.service.start()

    def _record(self, calls: list[Call], answers: Mapping[Call, Answer | None], *, may_fail: bool = False) -> None:
        for call in calls:
            self.done[f"request: {call.kind}"] += 1
        for job in {call.job for call in calls}:
            of_job = {call: answer for call, answer in answers.items() if call.job == job}
            for call, answer in of_job.items():
                if answer is not None and answer.status >= 500:
                    if not (may_fail and answer.status == 503):
                        raise Violation(f"no request fails: {call.kind} answered {answer.status} {dict(answer.body)}")
                    of_job[call] = None
                if answer is None and call.heard and not may_fail:
                    raise Violation(f"no request fails: {call.kind} of {call.request.path} got no answer")
                if call.kind == "delete":
                    self._logs.pop(job, None)
            self._jobs[job].happened(of_job)

    def _ask(self, call: Call) -> Answer:
        """Ask, and wait for the answer."""
        answer = self.service.ask(call.request)
        if answer is None:
            raise Violation(f"no request fails: {call.kind} of {call.request.path} got no answer")
        self._record([call], {call: answer})
        return answer

    def _alone(self, op: Op) -> None:
        if op.kind == "copy":
            self._copy(self._name(op.job))
        elif op.kind == "train":
            self._train(self._name(op.job), 1 + op.a // 2, 1 + op.b % 4, world_size=1 + op.c % 2)
        else:
            for call in self._calls(op):
                self._past.append(call)
                self._ask(call)

    # What is asked.

    def _name(self, number: int) -> str:
        return list(self._jobs)[number % len(self._jobs)]

    def _calls(self, op: Op) -> list[Call]:
        """What an op means as things are."""
        if op.kind == "again":
            return [self._past[-1 - (op.a * 8 + op.b) % len(self._past)].again()] if self._past else []
        name = self._name(op.job)
        spec, model = self._specs[name], self._jobs[name].model
        made = getattr(self, f"_{op.kind}")(name, spec, model, op)
        if op.kind == "keep":  # sent later, by `again`
            self._past += made
            return []
        return list(made)

    def _steps(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        start = max(0, model.served - [0, 0, 0, 0, 0, 1, 3, 9][op.a])
        ranks = 2 if spec.batch_size % 2 == 0 and op.c % 2 else 1
        rank = int(ranks == 2 and op.c >= 6)
        fed_back = [s for s in range(max(0, start - op.b % 4), start) if s < model.served]
        feedback = _measured(spec, fed_back, ranks) if fed_back else None
        request = StepsRequest(start=start, count=1 + op.b // 2, rank=rank, world_size=ranks, feedback=feedback)
        yield self._call(name, "steps", "POST", "/steps", request, frame=op.c % 3 == 0)

    def _feedback(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        latest = max(0, model.served - 1 - op.a // 2)
        ranks = 2 if spec.batch_size % 2 == 0 and op.c % 2 else 1
        steps = list(range(max(0, latest - op.b % 3), latest + 1))
        if op.b >= 6:
            steps.reverse()
        unknown = {7: ("similarity", "loss", "probability"), 5: ("loss",)}.get(op.c, ())
        measured = _measured(spec, steps, ranks, unknown=unknown)
        request = FeedbackRequest(rank=op.c // 2 % ranks, world_size=ranks, feedback=measured)
        yield self._call(name, "feedback", "POST", "/feedback", request, frame=op.c % 3 == 0)

    _keep = _feedback

    def _validate(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        step = max(0, model.served - [0, 0, 0, 0, 1, 2, 4, 8][op.a])
        yield self._call(name, "validate", "POST", "/validation", _report(step, op.b))

    def _measure(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        indices = np.arange(op.a % spec.samples, spec.samples)
        scores = Scores(indices=indices, similarity=_wave(indices + op.b), loss=1 + _wave(indices * 2 + op.c))
        yield self._call(name, "measure", "PUT", "/scores", scores, frame=op.c % 2 == 0)

    def _swap(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        policy = PolicySpec(name="unknown") if (op.a, op.b) == (7, 7) else POLICIES[(op.a * 8 + op.b) % len(POLICIES)]
        request = SwapRequest(policy=policy, at="now" if op.c % 2 else "next_interval")
        yield self._call(name, "swap", "PUT", "/policy", request)

    def _shadow(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        policy = POLICIES[(op.a * 8 + op.b) % len(POLICIES)]
        yield self._call(name, "swap", "PUT", "/policy", SwapRequest(policy=policy, shadow=True))

    def _end_shadow(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        yield self._call(name, "end_shadow", "DELETE", "/policy/shadow")

    def _act(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        first = max(0, model.planned + [0, 0, 0, 0, 0, 0, 1, -3][op.a])
        request = ActionRequest(first_step=first, action=ACTIONS[op.b % 4], detail={"agent": op.c % 2})
        yield self._call(name, "act", "PUT", "/action", request)

    def _adopt(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        if model.spec is None:
            return
        start = max(0, model.served - [0, 0, 0, 1, 1, 2, 3, 12][op.a])
        count = 1 + op.b % 4
        batches = LocalBatches(start=start, indices=_drawn_by_client(model, start, count, wrong=op.c == 7))
        yield self._call(name, "adopt", "POST", "/local-batches", batches, frame=op.c % 2 == 0)

    def _read(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        start = max(0, model.served - 1 - op.a)
        yield self._reading(name, range(start, start + 1 + op.b % 4), frame=op.c % 2 == 0)

    def _ahead(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        """What concerns a step that is not handed out; some of it together with what would be fine by itself."""
        step = model.served + 1 + op.b
        if op.a < 3:
            feedback = _measured(spec, [0, step - 1], 1)
            yield self._call(name, "feedback", "POST", "/feedback", FeedbackRequest(feedback=feedback))
        elif op.a < 5:
            yield self._call(name, "validate", "POST", "/validation", _report(step, op.c))
        elif op.a < 6:
            yield self._call(
                name, "steps", "POST", "/steps", StepsRequest(start=step, feedback=_measured(spec, [0], 1))
            )
        else:
            yield self._reading(name, range(max(0, step - 2), step))

    def _create(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        asked = spec if op.a < 6 else spec.model_copy(update={"seed": spec.seed + 1})
        asked = asked if model.spec is None else asked.model_copy(update={"name": name})
        yield Call(name, "create", asked, Request.of("POST", "/v1/jobs", asked))

    def _delete(self, name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
        yield self._call(name, "delete", "DELETE", "")

    def _call(
        self, name: str, kind: str, method: str, path: str, message: Message | None = None, *, frame: bool = False
    ) -> Call:
        return Call(name, kind, message, Request.of(method, f"/v1/jobs/{name}{path}", message, frame=frame))

    def _reading(self, name: str, steps: range, *, frame: bool = False) -> Call:
        path = f"/v1/jobs/{name}/batches?start={steps.start}&count={len(steps)}"
        return Call(name, "read", steps, Request.of("GET", path, frame=frame))

    # Longer things.

    def _new(self, spec: JobSpec) -> None:
        self._jobs[spec.name], self._specs[spec.name] = History(), spec
        call = Call(spec.name, "create", spec, Request.of("POST", "/v1/jobs", spec))
        self._past.append(call)
        self._ask(call)

    def _train(self, name: str, steps: int, count: int, *, world_size: int) -> None:
        """Steps with feedback of all ranks, and a validation at the end of each epoch."""
        spec = self._specs[name]
        ranks = world_size if spec.batch_size % world_size == 0 else 1
        while steps > 0:
            start = self._jobs[name].model.served
            self._log_call(call := self._call(name, "steps", "POST", "/steps", StepsRequest(start=start, count=count)))
            batches = batches_in(self._ask(call))
            if not batches:  # there is no such job, or a request that got lost has moved it on
                return
            for step in batches:
                for rank in range(ranks):
                    request = FeedbackRequest(rank=rank, world_size=ranks, feedback=_measured(spec, [step], ranks))
                    self._log_call(call := self._call(name, "feedback", "POST", "/feedback", request, frame=True))
                    self._ask(call)
            model, end = self._jobs[name].model, max(batches) + 1
            if model.spec is not None and end == model.epoch_start(model.epoch_of(end)):
                self._log_call(call := self._call(name, "validate", "POST", "/validation", _report(end, 0)))
                self._ask(call)
            steps -= len(batches)

    def _log_call(self, call: Call) -> None:
        self._past.append(call)

    def _copy(self, name: str) -> None:
        """Take a job's snapshot, put it under another name, and see both go on alike."""
        self._settle()
        if len(self._jobs) >= JOBS or self._restless or self._jobs[name].model.spec is None:
            return
        taken = self.service.ask(Request("GET", f"/v1/jobs/{name}/snapshot"))
        if taken is None or taken.status != 200:
            raise Violation(f"no request fails: the snapshot of {name} answered {taken}")
        copy = f"p{self._number}-{len(self._jobs)}"
        model = self._jobs[name].model.copy()
        model.spec = self._specs[name].model_copy(update={"name": copy})
        self._jobs[copy], self._specs[copy] = History(), model.spec
        self._origins[copy] = taken.content
        request = Request("PUT", f"/v1/jobs/{copy}/snapshot", taken.content, "application/vnd.bss.frame")
        self._ask(Call(copy, "put", model, request))
        for each in (name, copy):
            self._train(each, 4, 2, world_size=1)
        one, other = (self._jobs[each].model.batches for each in (name, copy))
        if one != other:
            raise Violation(f"a copy goes on as its source: {name} drew {one}, {copy} {other}")

    # What is left behind.

    def _settle(self) -> None:
        """Read all that can be read of each job."""
        for name, history in self._jobs.items():
            state = self._ask(self._call(name, "state", "GET", ""))
            if state.status == 404:
                self._logs.pop(name, None)
                continue
            served = state.body["next_step"]
            if history.model.oldest < served:
                self._ask(self._reading(name, range(history.model.oldest, served), frame=self.service.starts % 2 == 0))
            log = self._ask(self._call(name, "log", "GET", "/decisions?count=1000"))
            if log.status == 404 or log.body["total"] != len(log.body["decisions"]):
                continue
            rows = log.body["decisions"]
            self._check_log(name, rows)
            if not self._restless:
                history.check(lambda model, rows=rows: objections(model, rows))  # type: ignore[misc]

    def _check_log(self, name: str, rows: list[Mapping[str, Any]]) -> None:
        """A decision, once made, stays; so does its reward, once it is known."""
        for k, (before, now) in enumerate(zip(self._logs.get(name, []), rows, strict=False)):
            for key in before:
                may_change = key == "end_step" or (key in ("gain", "reward", "rewarded_at") and before[key] is None)
                if before[key] != now[key] and not may_change:
                    raise Violation(f"{key} of decision {k} of {name} was {before[key]}, is {now[key]}")
        self._logs[name] = rows

    def _end(self) -> None:
        """Kill, replay the journals, restart, read everything again, and clean up."""
        self._settle()
        self.service.kill()
        self.done["kills"] += 1
        for history in self._jobs.values():
            history.died()
        store = Store(f"sqlite:///{self.service.store}")
        journals = {name: store.journal(name) for name in self._jobs}
        store.close()
        self.service.start()
        self._settle()
        for name, history in self._jobs.items():
            if history.model.spec is not None:
                self._check_samples(name)
                origin = self._origins.get(name)
                history.check(lambda model, name=name, origin=origin: _replayed(model, journals[name], origin))  # type: ignore[misc]
            self._ask(self._call(name, "delete", "DELETE", ""))

    def _check_samples(self, name: str) -> None:
        taken = self.service.ask(Request("GET", f"/v1/jobs/{name}/snapshot"))
        if taken is None or taken.status != 200:
            raise Violation(f"no request fails: the snapshot of {name} answered {taken}")
        counted = Snapshot.from_frame(taken.content).table.times_measured.tolist()

        def wrong(model: Model) -> Iterator[str]:
            expected = model.times_measured()
            if expected is not None and expected != counted:
                yield f"feedback counts once: samples of {name} were measured {expected} times, not {counted}"

        self._jobs[name].check(wrong)


def _replayed(model: Model, journal: list[Entry], origin: bytes | None) -> Iterator[str]:
    """What is wrong with a job that its journal alone makes."""
    assert model.spec is not None
    if origin is None:
        job = Job(model.spec)
    else:
        snapshot = Snapshot.from_frame(origin)
        job = restore(snapshot.model_copy(update={"spec": model.spec, "artefacts": {}}), {})
    plans: dict[int, list[int]] = {}

    def keep() -> None:
        plans.update({p.first_step + k: batch.tolist() for p in job.plans for k, batch in enumerate(p.indices)})
        for step in [s for s in plans if s >= job.planned_until]:
            del plans[step]

    keep()
    for entry in journal:
        try:
            entry.event(model.spec).apply(job)
        except Exception as error:
            yield f"replay: entry {entry.seq}, {entry.kind}: {type(error).__name__} {error}"
            return
        keep()
    for step, batch in model.batches.items():
        if step >= model.oldest and batch.indices is not None and plans.get(step) != list(batch.indices):
            yield f"replay: step {step} was {batch.indices}, the journal alone gives {plans.get(step)}"
    times = model.times_measured()
    if times is not None and job.table.times_measured.tolist() != times:
        yield f"replay: samples were measured {times} times, the journal alone gives {job.table.times_measured}"


def _wave(x: np.ndarray) -> np.ndarray:
    return (np.sin(x * 12.9898) * 0.5 + 0.5).astype(np.float32)


def _measured(spec: JobSpec, steps: list[int], ranks: int, *, unknown: Sequence[str] = ()) -> Feedback:
    """What a rank measured in some steps; of some signals not for every sample."""
    share = spec.batch_size // ranks
    values = _wave(np.array(steps)[:, None] * 0.37 + np.arange(share)[None])
    heads = np.repeat(values[:, :, None], 3, axis=2)
    signals = {"similarity": values.copy(), "loss": 3 - 2 * values, "probability": heads}
    for name in unknown:
        signals[name][values <= 0.4] = np.nan
    return Feedback(step=np.array(steps), **signals)


def _report(step: int, variant: int) -> ValidationReport:
    progress = float(1 - np.exp(-step / 10)) * (1 - variant / 20)
    heads = ModalityReport(accuracy=progress, probability=progress / 2)
    return ValidationReport(
        step=step, loss=2 - progress, accuracy=progress, modalities={"audio": heads, "video": heads}
    )


def _drawn_by_client(model: Model, start: int, count: int, *, wrong: bool) -> np.ndarray:
    """Batches (count, G) of samples that have not come in their epochs; or, wrong, of one that comes again."""
    assert model.spec is not None
    n, g = model.spec.samples, model.spec.batch_size
    rows: list[int] = []
    for position in range(start * g, (start + count) * g):
        began = position // model.positions * model.positions
        here = [model.batches[p // g].indices for p in range(began, min(position, start * g))]
        came = {indices[(began + k) % g] for k, indices in enumerate(here) if indices is not None}
        came |= set(rows[max(0, began - start * g) :])
        free = [(sample * 5 + start) % n for sample in range(n)] if n % 5 else list(range(n))
        rows.append(next((sample for sample in free if sample not in came), 0))
    if wrong and g > 1:
        rows[1] = rows[0]
    return np.array(rows).reshape(count, g)
