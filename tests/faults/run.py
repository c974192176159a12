"""Runs a program against the service, and holds every answer and all that it leaves behind against the model."""

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from bss_service.job.job import Job
from bss_service.job.snapshot import Snapshot, restore
from bss_service.journal.backup import back_up
from bss_service.journal.store import Store
from bss_service.journal.transaction import Entry
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.message import Message
from bss_service.protocol.training import FeedbackRequest, StepsRequest, batch_checksum
from tests.faults.expected.histories import Call, History, Violation, batches_in
from tests.faults.expected.invariants import objections
from tests.faults.expected.model import Model
from tests.faults.programs import JOBS, Op, Program, Turn, job_spec
from tests.faults.requests import calling, measured, reading, report, requests
from tests.faults.service import Answer, Request, Service
from tests.faults.shared import SharedServices

OF_STORES = {"restore", "rival", "usurp", "misplace"}  # moves that not every store allows
LONG = {"copy", "train", "recreate", "restore", "rival", "usurp", "misplace", "stranger"}  # more than one request
ALONE = {"adopt", "delete", "create", *LONG}  # done by themselves, and by a client that waits
AT_ONCE = 4  # requests, or there are too many orders in which they may have happened


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
        calls = [call for op in turn.ops if op.kind not in LONG for call in self._calls(op)]
        if turn.end in ("vanish", "together", "cut"):
            calls = [call for call in calls if call.kind not in ALONE]
        if any(call.kind in ALONE for call in calls):
            calls = calls[:1]
        calls = calls[:AT_ONCE]
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
            self._record(calls, answers, may_fail=calls if any(c.kind == "delete" for c in calls) else ())
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
        self._record(calls, answers, may_fail=calls)
        self._died()
        self.service.start()

    def _died(self) -> None:
        """A service is gone; with one that shares the store others may go on as they were."""
        for history in self._jobs.values():
            history.died(surely=not isinstance(self.service, SharedServices))

    def _record(
        self, calls: list[Call], answers: Mapping[Call, Answer | None], *, may_fail: Collection[Call] = ()
    ) -> None:
        """Hold the answers to what was asked at once against the model. may_fail: those that may be answered 503."""
        for call in calls:
            self.done[f"request: {call.kind}"] += 1
        for job in {call.job for call in calls}:
            of_job = {call: answer for call, answer in answers.items() if call.job == job}
            for call, answer in of_job.items():
                if answer is not None and answer.status >= 500:
                    if not (call in may_fail and answer.status == 503):
                        raise Violation(f"no request fails: {call.kind} answered {answer.status} {dict(answer.body)}")
                    of_job[call] = None
                if answer is not None and answer.status == 409 and call.kind in ("attach", "steps"):
                    self.done[f"{call.kind} refused for {answer.body['field']}"] += 1
                if answer is None and call.heard and call not in may_fail:
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
        if op.kind in OF_STORES - self.service.moves:
            op = replace(op, kind="usurp")  # which each allows
        self.done[f"move: {op.kind}"] += op.kind in LONG
        name = self._name(op.job)
        if op.kind == "train":
            self._train(name, 1 + op.a // 2, 1 + op.b % 4, world_size=1 + op.c % 2, by_name=op.b >= 4)
        elif op.kind in LONG:
            self._settle()
            if not self._restless and self._jobs[name].model.spec is not None:
                getattr(self, f"_{op.kind}")(name, op)
        else:
            for call in self._calls(op):
                self._past.append(call)
                self._ask(call)

    # What is asked.

    def _name(self, number: int) -> str:
        return list(self._jobs)[number % len(self._jobs)]

    def _calls(self, op: Op) -> list[Call]:
        """What an op means as things are."""
        self.done[f"move: {op.kind}"] += 1
        if op.kind == "again":
            return [self._past[-1 - (op.a * 8 + op.b) % len(self._past)].again()] if self._past else []
        if op.kind == "adopt" and self._restless:
            return []  # what a client draws must not repeat what came, which nobody knows then
        name = self._name(op.job)
        spec, model = self._specs[name], self._jobs[name].model
        made = requests(name, spec, model, op)
        if op.kind == "keep":  # sent later, by `again`
            self._past += made
            return []
        return made

    # Longer things.

    def _new(self, spec: JobSpec) -> None:
        self._jobs[spec.name], self._specs[spec.name] = History(), spec
        call = Call(spec.name, "create", spec, Request.of("POST", "/v1/jobs", spec))
        self._past.append(call)
        self._ask(call)

    def _train(self, name: str, steps: int, count: int, *, world_size: int, by_name: bool = False) -> None:
        """Steps with feedback of all ranks, and a validation at the end of each epoch; by whoever leads, or no name."""
        spec = self._specs[name]
        leads = [trainer.client for trainer in self._jobs[name].model.places.trainers if trainer.rank == 0]
        client = leads[0] if leads and by_name else None
        ranks = world_size if spec.batch_size % world_size == 0 else 1
        while steps > 0:
            start = self._jobs[name].model.served
            request = StepsRequest(start=start, count=count, client=client)
            self._log_call(call := calling(name, "steps", "POST", "/steps", request))
            batches = batches_in(self._ask(call))
            if not batches:  # there is no such job, or a request that got lost has moved it on
                return
            for step, batch in batches.items():
                checksum = np.array([batch_checksum(np.array(batch.indices))])
                for rank in range(ranks):
                    feedback = measured(spec, [step], ranks).model_copy(update={"checksum": checksum})
                    told = FeedbackRequest(rank=rank, world_size=ranks, feedback=feedback)
                    self._log_call(call := calling(name, "feedback", "POST", "/feedback", told, frame=True))
                    self._ask(call)
            model, end = self._jobs[name].model, max(batches) + 1
            if model.spec is not None and end == model.epoch_start(model.epoch_of(end)):
                self._log_call(call := calling(name, "validate", "POST", "/validation", report(end, 0)))
                self._ask(call)
            steps -= len(batches)

    def _log_call(self, call: Call) -> None:
        self._past.append(call)

    # Who trains with another job, or writes to another store, than there is.

    def _recreate(self, name: str, op: Op) -> None:
        """A job is deleted and made anew while its trainer goes on, with the new one behind or ahead of it."""
        self._train(name, 1 + op.a // 2, 2, world_size=1)
        stale = self._incarnation(name)
        self._ask(calling(name, "delete", "DELETE", ""))
        spec = self._specs[name]
        self._ask(Call(name, "create", spec, Request.of("POST", "/v1/jobs", spec)))
        self._train(name, 1 + op.b, 3, world_size=1)
        self._check_stale(name, stale)

    def _restore(self, name: str, op: Op) -> None:
        """The store is restored from a backup, and may catch up with a trainer that knows nothing of it."""
        store, stale = self.service.store, self._incarnation(name)
        back_up(f"sqlite:///{store}", copy := store.with_name("backup.sqlite"))
        jobs = {each: history.kept() for each, history in self._jobs.items()}
        logs = dict(self._logs)
        self._train(name, 1 + op.a // 2, 2, world_size=1)
        self.service.kill()
        for part in store.parent.glob(f"{store.name}*"):
            part.unlink()
        copy.rename(store)
        self._jobs, self._logs = jobs, logs
        self._revived()
        self._train(name, op.b, 2, world_size=1)
        self._check_stale(name, stale)

    def _rival(self, name: str, op: Op) -> None:
        """A second service is started on the same store."""
        store = self.service.store
        other = store.with_name("other.sqlite")
        if op.a % 3 == 0:
            other.symlink_to(store)
        elif op.a % 3 == 1:
            other.hardlink_to(store)
        else:
            store.with_name(f"{store.name}.lock").unlink(missing_ok=True)
        rivals = self.service.lets_in(other if op.a % 3 < 2 else store)
        other.unlink(missing_ok=True)
        if rivals:
            raise Violation(f"one service has a store: another got it by way {op.a % 3}")

    def _usurp(self, name: str, op: Op) -> None:
        """The store, or the job, is taken over by another service while this one sleeps."""
        if isinstance(self.service, SharedServices):
            self._outlive_owner(self.service, name, op)
            return
        self.service.usurped()
        self._check_stores_nothing("it was taken over")

    def _outlive_owner(self, services: SharedServices, name: str, op: Op) -> None:
        """The owner of a job falls asleep in the midst of calls, and wakes up when another is the owner: both believe.

        The same feedback and the same batches are asked of both, at the same time or of the new owner a moment later.
        The old one may refuse, the new one must not.
        """
        served = self._jobs[name].model.served
        late = [calling(name, "steps", "POST", "/steps", StepsRequest(start=served))]
        if served:
            told = FeedbackRequest(feedback=measured(self._specs[name], [served - 1], 1))
            late.insert(0, calling(name, "feedback", "POST", "/feedback", told))
        again = [call.again() for call in late]
        with services.asleep(name, [call.request for call in late], self._pool, op.c / 1000) as asked:
            services.ask(Request("GET", f"/v1/jobs/{name}/decisions"))  # so that the new owner has it in memory
        answers = dict(zip(late, asked, strict=True))
        if op.a % 2:
            answers |= {call: self._pool.submit(services.ask, call.request) for call in again}
        self._record(list(answers), {call: answer.result() for call, answer in answers.items()}, may_fail=late)
        for call in again:
            if call not in answers:
                self._ask(call)
        services.settle()
        self._died()
        self.done["owners replaced"] += 1
        self._settle()

    def _misplace(self, name: str, op: Op) -> None:
        """The store's file is moved away or replaced under the service, and brought back once it has ended."""
        store = self.service.store
        aside = store.with_name("aside.sqlite")
        if op.a % 2:
            shutil.copy(store, new := store.with_name("new.sqlite"))
            aside.hardlink_to(store)
            new.rename(store)
        else:
            store.rename(aside)
        self._check_stores_nothing(
            "its file was replaced" if op.a % 2 else "its file was moved", lambda: aside.rename(store)
        )

    def _stranger(self, name: str, op: Op) -> None:
        """Feedback comes of another batch than that of its step."""
        model = self._jobs[name].model
        step = model.served - 1 - op.a // 4
        if not model.plans or not max(0, model.plans[0][0]) <= step < model.served:
            return
        feedback = measured(self._specs[name], [step], 1).model_copy(update={"checksum": np.array([op.b])})
        self._check_refused(name, "POST", "/feedback", FeedbackRequest(feedback=feedback), "feedback.checksum")

    def _incarnation(self, name: str) -> str:
        state = self.service.ask(Request("GET", f"/v1/jobs/{name}"))
        if state is None or state.status != 200 or not state.body["incarnation"]:
            raise Violation(f"no request fails: the state of {name} answered {state}")
        return str(state.body["incarnation"])

    def _check_stale(self, name: str, stale: str) -> None:
        """A trainer of another incarnation gets nothing, and nothing of it counts: the model is not told of it."""
        served = self._jobs[name].model.served
        if served:
            told = FeedbackRequest(feedback=measured(self._specs[name], [served - 1], 1))
            self._check_refused(name, "POST", "/feedback", told, "incarnation", stale)
        self._check_refused(name, "POST", "/steps", StepsRequest(start=served), "incarnation", stale)
        self._settle()

    def _check_refused(
        self, name: str, method: str, path: str, message: Message, field: str, stale: str | None = None
    ) -> None:
        request = Request.of(method, f"/v1/jobs/{name}{path}", message)
        answer = self.service.ask(replace(request, incarnation=stale))
        self.done[f"refused for {field}"] += 1
        if answer is None or (answer.status, answer.body.get("field")) != (409, field):
            told = None if answer is None else (answer.status, dict(answer.body))
            raise Violation(f"a stale trainer counts nowhere: {path} of {name} must be refused for {field}, got {told}")

    def _check_stores_nothing(self, why: str, repair: Callable[[], object] = lambda: None) -> None:
        """The service acknowledges nothing, and says so; the one after it has nothing of what was asked for."""
        spec = job_spec(f"p{self._number}-nowhere", [0] * 8)
        asked = [self.service.ask(Request.of("POST", "/v1/jobs", spec)), self.service.ask(Request("GET", "/readyz"))]
        self.service.kill()
        repair()
        self._revived()
        self.done["stores lost"] += 1
        told = [None if answer is None else (answer.status, answer.body.get("field")) for answer in asked]
        if told != [(503, "store")] * 2:
            raise Violation(f"a store that is lost takes nothing: {why}, and a change and /readyz were answered {told}")
        left = self.service.ask(Request("GET", f"/v1/jobs/{spec.name}"))
        if left is None or left.status != 404:
            raise Violation(f"a store that is lost takes nothing: {why}, and what was refused is there")

    def _revived(self) -> None:
        """Another service, after one that was killed while nothing was under way."""
        self.done["kills"] += 1
        for history in self._jobs.values():
            history.died()
        self.service.start()
        self._settle()

    def _copy(self, name: str, op: Op) -> None:
        """Take a job's snapshot, put it under another name, and see both go on alike."""
        if len(self._jobs) >= JOBS:
            return
        taken = self.service.ask(Request("GET", f"/v1/jobs/{name}/snapshot"))
        if taken is None or taken.status != 200:
            raise Violation(f"no request fails: the snapshot of {name} answered {taken}")
        copy = f"p{self._number}-{len(self._jobs)}"
        copies = self._jobs[name].copied(copy)
        self._jobs[copy] = History()
        self._specs[copy] = self._specs[name].model_copy(update={"name": copy})
        self._origins[copy] = taken.content
        request = Request("PUT", f"/v1/jobs/{copy}/snapshot", taken.content, "application/vnd.bss.frame")
        self._ask(Call(copy, "put", copies.model, request))
        self._jobs[copy] = copies  # a crash may have left more than one that the source can be
        for each in (name, copy):
            self._train(each, 4, 2, world_size=1)
        one, other = (self._jobs[each].model.batches for each in (name, copy))
        if one != other:
            raise Violation(f"a copy goes on as its source: {name} drew {one}, {copy} {other}")

    # What is left behind.

    def _settle(self) -> None:
        """Read all that can be read of each job."""
        for name, history in self._jobs.items():
            state = self._ask(calling(name, "state", "GET", ""))
            if state.status == 404:
                self._logs.pop(name, None)
                continue
            self.done["jobs seen that have let batches go"] += history.model.kept_from > 0
            self._read(name, state.body["next_step"])
            log = self._ask(calling(name, "log", "GET", "/decisions?count=1000"))
            if history.is_certain and history.model.served > state.body["next_step"]:
                self._read(name, history.model.served)  # handed out since, as the log has told
            if log.status == 404 or log.body["total"] != len(log.body["decisions"]):
                continue
            rows = log.body["decisions"]
            self._check_log(name, rows)
            if not self._restless:
                history.check(lambda model, rows=rows: objections(model, rows))  # type: ignore[misc]

    def _read(self, name: str, served: int) -> None:
        """Read all batches that are kept of those before a step."""
        model = self._jobs[name].model
        first = max(model.oldest, model.kept_from)
        if first < served:
            self._ask(reading(name, range(first, served), frame=self.service.starts % 2 == 0))

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
        self.service.kill_all()
        self.done["kills"] += 1
        self._died()
        store = Store(self.service.url)
        journals = {name: store.journal(name) for name in self._jobs}
        begins = {name: _beginning(store, name) for name in self._jobs}
        store.close()
        self.service.start()
        self._settle()
        for name, history in self._jobs.items():
            if history.model.spec is not None:
                self._check_samples(name)
                self.done["journals that were cut"] += begins[name] is not None
                told = journals[name], begins[name], self._origins.get(name)
                history.check(lambda model, told=told: _replayed(model, *told))  # type: ignore[misc]
            self._ask(calling(name, "delete", "DELETE", ""))

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


def _beginning(store: Store, name: str) -> bytes | None:
    """The snapshot that a journal begins behind since it was cut; None where it was not."""
    stored = store.load(name, whole=True)
    return None if stored is None or stored.seq == 0 else stored.snapshot


def _replayed(model: Model, journal: list[Entry], cut: bytes | None, origin: bytes | None) -> Iterator[str]:
    """What is wrong with a job that its journal alone makes.

    cut: the snapshot that it was cut to begin behind; origin: the one that a copy began with.
    """
    assert model.first_spec is not None and model.spec is not None
    if cut is not None:
        job = restore(Snapshot.from_frame(cut))
    elif not model.is_copy or origin is None:
        job = Job(model.first_spec)
    else:
        snapshot = Snapshot.from_frame(origin)
        job = restore(snapshot.model_copy(update={"spec": model.first_spec, "artefacts": {}}), {})
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
        if (
            step >= max(model.oldest, model.kept_from)
            and batch.indices is not None
            and plans.get(step) != list(batch.indices)
        ):
            yield f"replay: step {step} was {batch.indices}, the journal alone gives {plans.get(step)}"
    times = model.times_measured()
    if times is not None and job.table.times_measured.tolist() != times:
        yield f"replay: samples were measured {times} times, the journal alone gives {job.table.times_measured}"
