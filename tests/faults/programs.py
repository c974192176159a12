"""Random programs: what clients ask, in which order, what gets lost, and when the service dies."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hypothesis import strategies as st

from bss_service.core.validation.reward import Basis
from bss_service.protocol.jobs import JobSpec, RewardSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import Trainer

JOBS = 4  # in one program, copies included
End = Literal["answered", "together", "vanish", "cut", "kill", "stop"]

POLICIES = [
    PolicySpec(name="uniform"),
    PolicySpec(name="balance"),
    PolicySpec(name="balance", parameters={"coverage": "epoch"}),
    PolicySpec(name="balance", parameters={"coverage": "subset", "share": 0.6}),
    PolicySpec(name="balance_code"),
    PolicySpec(name="curriculum", parameters={"initial_share": 0.5, "growth_epochs": 3}),
    PolicySpec(name="self_paced"),
    PolicySpec(name="fixed", parameters={"kappa_loss": -3.0, "floor": 0.1}),
    PolicySpec(name="bandit", parameters={"warm_up": 0, "learning_rate": 0.5}),
    PolicySpec(name="learned"),
    PolicySpec(name="external"),
]
TRAINERS = [  # several that may be ranks of the same run, and of others
    Trainer(client=f"c{number}", host="gpu-1", process=number, rank=rank, world_size=ranks, group=group)
    for number, (rank, ranks, group) in enumerate(
        [(0, 1, ""), (0, 1, ""), (0, 2, "a"), (1, 2, "a"), (0, 2, "a"), (1, 2, "a"), (0, 2, "b"), (1, 2, "b")]
    )
]
KINDS = {  # and how often
    "train": 12,
    "steps": 6,
    "feedback": 6,
    "again": 5,
    "swap": 8,
    "validate": 2,
    "adopt": 2,
    "act": 2,
    "measure": 1,
    "read": 1,
    "keep": 2,
    "shadow": 1,
    "end_shadow": 1,
    "ahead": 1,
    "attach": 3,
    "second": 6,
    "rerun": 3,
    "by_name": 4,
    "detach": 2,
    "change": 4,
    "register": 2,
    "skip": 2,
    "subset": 2,
    "back": 2,
    "create": 1,
    "delete": 1,
    "copy": 1,
    "recreate": 2,
    "restore": 2,
    "rival": 2,
    "usurp": 2,
    "misplace": 2,
    "stranger": 3,
}
ENDS: dict[End, int] = {"answered": 24, "together": 6, "vanish": 3, "cut": 1, "kill": 3, "stop": 1}


@dataclass(frozen=True)
class Op:
    """One thing that a client does; the numbers choose among what is possible when it is done."""

    kind: str
    job: int
    a: int
    b: int
    c: int


@dataclass(frozen=True)
class Turn:
    """Things done at once, and how it ends: `delay` is tenths of a millisecond before the service dies."""

    ops: list[Op]
    end: End
    delay: int = 0


@dataclass(frozen=True)
class Program:
    """Two jobs by the numbers of their specs, and turns."""

    jobs: list[list[int]]
    turns: list[Turn]

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Program":
        fields = json.loads(text)
        turns = [Turn([Op(**op) for op in turn["ops"]], turn["end"], turn["delay"]) for turn in fields["turns"]]
        return cls(fields["jobs"], turns)


def job_spec(name: str, numbers: list[int]) -> JobSpec:
    """A small job, chosen by eight numbers below 8."""
    policy, samples, batch, interval, lag, tail, patience, seed = numbers
    batch_size = [1, 2, 2, 3, 4, 4, 6, 8][batch]
    options: dict[str, Any] = {
        "interval": [None, None, None, 1, 2, 3, 5, 9][interval],
        "lag": [0, 0, 0, 0, 1, 2, 3, 6][lag],
        "tail": "drop" if tail % 2 else "carry",
        "patience": [0.0, 0.0, 0.01, 0.01, 0.05, 0.05, 0.1, 0.2][patience],
        "keep_epochs": [None, 1, None, 1, None, 2, None, None][patience],
        "horizon": 30 if seed % 2 else None,
        "reward": RewardSpec(basis=_BASES[tail // 2 % 2], metric="accuracy" if tail // 4 else "loss"),
    }
    return JobSpec(
        name=name,
        samples=max(batch_size, [4, 5, 7, 8, 9, 12, 14, 17][samples]),
        modalities=["audio", "video"],
        batch_size=batch_size,
        seed=seed,
        policy=POLICIES[(policy * 8 + seed) % len(POLICIES)],
        **options,
    )


_BASES: list[Basis] = ["surprise", "improvement"]


def _weighted(choices: dict[Any, int]) -> st.SearchStrategy[Any]:
    return st.sampled_from([choice for choice, weight in choices.items() for _ in range(weight)])


_number = st.integers(0, 7)
_op = st.builds(Op, _weighted(KINDS), st.integers(0, JOBS - 1), _number, _number, _number)
_one, _some = st.lists(_op, min_size=1, max_size=1), st.lists(_op, min_size=1, max_size=3)


def _turn(end: End) -> st.SearchStrategy[Turn]:
    ops = _one if end in ("answered", "cut") else _some
    return st.builds(Turn, ops, st.just(end), st.integers(0, 100) if end in ("kill", "stop") else st.just(0))


programs = st.builds(
    Program,
    st.lists(st.lists(_number, min_size=8, max_size=8), min_size=1, max_size=2),
    st.lists(_weighted(ENDS).flatmap(_turn), min_size=4, max_size=16),
)
