"""What a service is asked to do, in plain JSON over HTTP, so that every version of it can be asked the same.

Each job of the program has a beginning, which leaves every kind of entry in the journal, and a continuation. What was
answered is kept as JSON values.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, Self

import httpx
import numpy as np

Json = dict[str, Any]
Dialect = Callable[[Json], Json]

MODALITIES: Final = ["audio", "video"]
STEPS: Final = 14  # of a continuation
FROM_SCRATCH: Final = ("epochs", "ranks", "driven", "local", "trained")
JOBS: Final = (*FROM_SCRATCH, "recovered")


def first_version(message: Json) -> Json:
    """As the first version wrote it: `probabilities`, and a mask of what was measured in place of null."""
    if "similarity" not in message:
        return message
    comparable = {name: value for name, value in message.items() if name != "probability"}
    if "probability" in message:
        comparable["probabilities"] = message["probability"]
    if isinstance(message["similarity"][0], list) and any(None in row for row in message["similarity"]):
        comparable["measured"] = [[value is not None for value in row] for row in message["similarity"]]
        comparable = {name: _filled(value) for name, value in comparable.items()}
    return comparable


def this_version(message: Json) -> Json:
    """As it is."""
    return message


class Driver:
    """One trainer of all jobs, and an operator beside it."""

    def __init__(self, url: str, dialect: Dialect = this_version) -> None:
        self._http = httpx.Client(base_url=f"{url}/v1", timeout=60.0)
        self._dialect = dialect

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, method: str, path: str, body: Json | None = None, **options: Any) -> Json:
        """The answer's JSON; raises httpx.HTTPStatusError."""
        response = self._http.request(method, path, json=body, **options)
        response.raise_for_status()
        answer: Json = response.json() if response.content else {}
        return answer

    def create(
        self, name: str, samples: int, policy: str = "uniform", parameters: Json | None = None, **spec: Any
    ) -> None:
        """Create a job with batches of 8 samples."""
        chosen = {"name": policy, "parameters": parameters or {}}
        given = {
            "name": name,
            "samples": samples,
            "modalities": MODALITIES,
            "batch_size": 8,
            "seed": 7,
            "tail": "carry",
        }
        self.call("POST", "/jobs", {**given, "policy": chosen, **spec})

    def take(self, name: str, step: int) -> list[int]:
        """The samples of a step."""
        answer = self.call("POST", f"/jobs/{name}/steps", {"start": step})
        samples: list[int] = answer["batches"]["indices"][0]
        return samples

    def feed(self, name: str, step: int, samples: list[int], **changes: Any) -> list[str]:
        """Tell what was measured of some samples of a step."""
        rank = {key: changes.pop(key) for key in ("rank", "world_size") if key in changes}
        values = {signal: [of_it] for signal, of_it in (measured(step, samples) | changes).items() if of_it is not None}
        feedback = self._dialect({"step": [step], **values})
        outcomes: list[str] = self.call("POST", f"/jobs/{name}/feedback", {**rank, "feedback": feedback})["feedback"]
        return outcomes

    def scores(self, name: str, samples: Iterable[int], **changes: Any) -> None:
        """A part of a measuring pass."""
        indices = list(samples)
        values = {signal: of_it for signal, of_it in (measured(0, indices) | changes).items() if of_it is not None}
        self.call("PUT", f"/jobs/{name}/scores", self._dialect({"indices": indices, **values}))

    def train(self, name: str, steps: range, epoch: int) -> None:
        """Take each batch, tell of it, and report a validation where an epoch, given in steps, ends."""
        for step in steps:
            self.feed(name, step, self.take(name, step))
            if (step + 1) % epoch == 0:
                self.validate(name, step + 1)

    def validate(self, name: str, step: int) -> None:
        """Report a validation."""
        self.call("POST", f"/jobs/{name}/validation", report(step))

    def swap(self, name: str, policy: str, parameters: Json | None = None, **fields: Any) -> Json:
        """Change the policy."""
        chosen = {"name": policy, "parameters": parameters or {}}
        return self.call("PUT", f"/jobs/{name}/policy", {"policy": chosen, **fields})

    def act(self, name: str, step: int, action: Any, **fields: Any) -> None:
        """Act from outside."""
        self.call("PUT", f"/jobs/{name}/action", {"first_step": step, "action": action, **fields})

    def upload(self, artefact: bytes) -> str:
        """Upload a trained policy; its hash."""
        headers = {"content-type": "application/octet-stream"}
        sha256: str = self.call("POST", "/policies", content=artefact, headers=headers)["sha256"]
        return sha256

    def snapshot(self, name: str) -> bytes:
        """The job's state, as a file."""
        return self._http.get(f"/jobs/{name}/snapshot").raise_for_status().content

    def put_snapshot(self, name: str, data: bytes) -> None:
        """A job from such a file."""
        self.call("PUT", f"/jobs/{name}/snapshot", content=data, headers={"content-type": "application/vnd.bss.frame"})

    def record(self, name: str, start: int = 0) -> Json:
        """What the service tells of a job."""
        state = self.call("GET", f"/jobs/{name}")
        span = {"start": start, "count": state["next_step"] - start}
        samples = [self.call("GET", f"/jobs/{name}/samples/{k}") for k in range(4)]
        decisions = self.call("GET", f"/jobs/{name}/decisions", params={"count": 1000})["decisions"]
        batches = self.call("GET", f"/jobs/{name}/batches", params=span)
        return {"state": state, "batches": batches, "decisions": decisions, "samples": samples}


def begin(driver: Driver, name: str, artefact: bytes) -> None:
    """The beginning of a job; that of `recovered` is damaged afterwards, by whoever can reach the store."""
    {
        "epochs": _epochs,
        "ranks": _ranks,
        "driven": _driven,
        "local": _local,
        "trained": lambda driver: _trained(driver, driver.upload(artefact)),
        "recovered": _to_be_recovered,
    }[name](driver)


def go_on(driver: Driver, name: str, job: str | None = None) -> None:
    """The continuation of a job, which may have another name by now."""
    job = job or name
    first = driver.call("GET", f"/jobs/{job}")["next_step"]
    if name == "driven":
        driver.swap(job, "balance")
    driver.train(job, range(first, first + STEPS), epoch=5)


def _epochs(driver: Driver) -> None:
    driver.create("epochs", 42, "curriculum", {"growth_epochs": 6}, horizon=80)
    driver.scores("epochs", range(30))
    driver.scores("epochs", range(25, 42), probability=None)
    driver.validate("epochs", 0)
    driver.train("epochs", range(13), epoch=5)
    driver.swap("epochs", "balance", {"refresh_every": 2}, at="now")
    driver.swap("epochs", "learned", shadow=True)
    driver.train("epochs", range(13, 24), epoch=5)
    driver.call("DELETE", "/jobs/epochs/policy/shadow")
    driver.swap("epochs", "bandit", {"warm_up": 1})
    driver.train("epochs", range(24, 37), epoch=5)
    driver.scores("epochs", range(5))


def _ranks(driver: Driver) -> None:
    spec = {"interval": 4, "lag": 2, "tail": "drop", "patience": 0.0, "reward": {"basis": "improvement"}}
    driver.create("ranks", 45, "self_paced", **spec)
    for step in range(22):
        samples = driver.take("ranks", step)
        for rank in ((0, 1), (1, 0))[step % 2]:
            half = samples[4 * rank : 4 * rank + 4]
            changes: Json = {"probability": None} if step % 5 == 1 else {}
            if step % 7 == 2:
                changes = unknown(measured(step, half), rank)
            driver.feed("ranks", step, half, rank=rank, world_size=2, **changes)
        if step % 6 == 3:
            assert driver.feed("ranks", step, samples) == ["repeated"]
        if step == 9:
            driver.swap("ranks", "fixed", {"kappa_weak": 1.5, "kappa_stale": 0.5, "share": 0.8, "floor": 0.1})
        if step % 5 == 4:
            driver.validate("ranks", step + 1)


def _driven(driver: Driver) -> None:
    driver.create("driven", 40, "external", patience=0.0)
    driver.act("driven", 0, "hard", propensity=0.5)
    driver.train("driven", range(5), epoch=5)
    driver.act("driven", 5, "agreement")
    driver.act("driven", 5, {"kappa_loss": 2.0, "coverage": "subset", "share": 0.6}, detail={"agent": "a"})
    driver.train("driven", range(5, 10), epoch=5)
    driver.act("driven", 10, [0.1 * k - 0.5 for k in range(11)])
    driver.train("driven", range(10, 17), epoch=5)


def _local(driver: Driver) -> None:
    driver.create("local", 40, "balance", {"coverage": "epoch"}, patience=0.0)
    driver.train("local", range(12), epoch=5)
    driver.take("local", 12)  # its answer is lost, and the trainer draws by itself
    drawn = driver.call("GET", "/jobs/local/batches", params={"start": 10, "count": 2})["indices"]
    left = [k for k in range(40) if k not in {sample for batch in drawn for sample in batch}]
    own = {"start": 12, "indices": [left[:8], left[8:16]]}
    for _ in range(2):
        driver.call("POST", "/jobs/local/local-batches", own)
    for k, samples in enumerate(own["indices"]):
        driver.feed("local", 12 + k, samples)
    driver.train("local", range(14, 23), epoch=5)


def _trained(driver: Driver, sha256: str) -> None:
    driver.create("trained", 40, "artefact", {"sha256": sha256})
    driver.train("trained", range(8), epoch=5)
    driver.swap("trained", "artefact", {"sha256": sha256, "deterministic": True}, shadow=True)
    driver.train("trained", range(8, 15), epoch=5)
    driver.swap("trained", "learned", at="now")
    driver.train("trained", range(15, 23), epoch=5)


def _to_be_recovered(driver: Driver) -> None:
    driver.create("recovered", 40, "balance", {"coverage": "epoch"}, interval=2, lag=1, patience=0.0)
    driver.train("recovered", range(7), epoch=5)
    driver.swap("recovered", "uniform", at="now")
    driver.swap("recovered", "balance", shadow=True)
    driver.train("recovered", range(7, 17), epoch=5)


def measured(step: int, samples: list[int]) -> Json:
    """What a model might measure: a function of step and sample."""
    x = (np.sin(np.array(samples) * 12.9898 + step * 0.37) * 0.5 + 0.5).astype(np.float32)
    heads = np.stack([x, x * x, np.sqrt(x)], axis=1)
    return {"similarity": x.tolist(), "loss": (3 - 2 * x).tolist(), "probability": heads.tolist()}


def unknown(message: Json, row: int) -> Json:
    """The message with one sample that was trained on and not measured."""
    return {name: [*values[:row], _nothing(values[row]), *values[row + 1 :]] for name, values in message.items()}


def report(step: int) -> Json:
    """A validation after `step` steps; it improves, but not evenly."""
    progress = float(1 - np.exp(-step / 40))
    heads = {"audio": progress, "video": progress / 2}
    return {
        "step": step,
        "loss": float(2 - progress + 0.1 * np.cos(step)),
        "accuracy": progress,
        "modalities": {name: {"accuracy": value, "probability": value} for name, value in heads.items()},
    }


def _nothing(value: Any) -> Any:
    return [_nothing(each) for each in value] if isinstance(value, list) else None


def _filled(value: Any) -> Any:
    """Zeros where nothing is known: the mask says so."""
    if isinstance(value, list):
        return [_filled(each) for each in value]
    return 0.0 if value is None else value
