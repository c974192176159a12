"""What a suite compares: its tasks, its methods, and the protocol that all of them go through."""

import hashlib
import json
import runpy
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bss_service.policies.base import create_policy
from trainer_client.reference.evaluation import Logits
from trainer_client.reference.recipes import PAPER, RECIPES, Usual
from trainer_client.reference.rivals import create_rival, rival_class
from trainer_client.reference.training import Optimiser

SHIPPED: Final = Path(__file__).parent / "shipped"
LEARNING_RATE: Final = "learning_rate"
OFFICIAL: Final = "official"
SPAN: Final = 4.0  # by how much rates of the paper are tuned down and up
LIKELIEST: Final = "likeliest"  # as a policy's `judge`: that of the control which believes what heads find likeliest

Range = tuple[int, int] | tuple[float, float]
Published = tuple[float] | tuple[float, float]  # in %: accuracy, and mAP or macro-F1
Values = Mapping[str, float]  # of what is tuned, by name; int where the range is of integers


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Training(_Part):
    """How the runs of a task train; what is None is as the task's set has it in the paper, else as the suite says."""

    epochs: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    learning_rate: tuple[float, float] | None = None  # the range in which it is tuned
    optimiser: Optimiser | None = None
    weight_decay: float | None = Field(None, ge=0)
    decay_epochs: int | None = Field(None, ge=1)  # the rate is a tenth after every so many
    unimodal_weight: float | None = Field(None, ge=0, le=1)  # λ of the loss, a rival's too
    logits: Logits | None = None  # which predict

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.learning_rate is not None:
            _check_range(LEARNING_RATE, *self.learning_rate)
        return self


class Task(_Part):
    """A data set and what is done to its training samples; validation and test samples stay as they are."""

    data: str  # emoji, watch, a prepared file.npz[:modality,modality], or a public set, as SET or SET:FOLDER
    split: str = OFFICIAL  # of a public set
    leave_out: bool = False  # of a public set: whether files that are missing are done without
    encoders: dict[str, str] = Field(default_factory=dict)  # by modality, in place of those that are usual
    training: Training = Training()
    published: dict[str, Published] = Field(default_factory=dict)  # of methods, as their paper has it
    samples: int | None = Field(None, ge=1)  # for training at most, drawn by the seed; None: all
    noisy_labels: float = Field(0.0, ge=0, le=1)
    flipped_labels: float = Field(0.0, ge=0, le=1)
    mispaired: float = Field(0.0, ge=0, le=1)
    blank: float = Field(0.0, ge=0, le=1)

    @property
    def harm(self) -> dict[str, float]:
        """The arguments of `corrupt`."""
        return self.model_dump(include={"noisy_labels", "flipped_labels", "mispaired", "blank"})

    @property
    def public(self) -> str | None:
        """The name of the public set."""
        name = self.data.partition(":")[0]
        return name if name in RECIPES else None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.public is None:
            if self.split != OFFICIAL or self.leave_out:
                raise ValueError(f"split and leave_out belong to a public set, got data {self.data!r}")
        elif self.samples is not None or any(self.harm.values()):
            raise ValueError(
                f"samples and harm belong to data in memory, got data {self.data!r}, decoded as it is needed"
            )
        return self


class Method(_Part):
    """A rival, a policy, or one upon the other; plain training on plain shuffling where neither is named."""

    rival: str | None = None
    file: Path | None = None  # Python that registers the rival when it is run; beside the suite's file
    policy: str = "uniform"
    parameters: dict[str, Any] = Field(default_factory=dict)  # of the rival
    policy_parameters: dict[str, Any] = Field(default_factory=dict)
    tune: dict[str, Range] = Field(default_factory=dict)  # parameters of the policy; those of a rival are its `ranges`
    measure_first: bool = False  # a measuring pass before the first step
    as_many_as: str | None = None  # a method; epochs for as many samples as its chosen trial passed through its network
    pull: bool = False  # heads are drawn towards what they said before, where the policy asks for it

    def ranges(self) -> dict[str, Range]:
        """What is tuned besides the learning rate, by name; that of a policy's parameter begins with `policy.`."""
        own = {} if self.rival is None else {k: v for k, v in self._rival_ranges().items() if k not in self.parameters}
        return {**own, **{f"policy.{name}": bounds for name, bounds in self.tune.items()}}

    def rival_parameters(self, values: Values) -> dict[str, Any]:
        """The rival's, with what was tuned."""
        tuned = {name: value for name, value in values.items() if name != LEARNING_RATE and "." not in name}
        return {**self.parameters, **tuned}

    def tuned_policy(self, values: Values) -> dict[str, Any]:
        """The policy's parameters, with what was tuned."""
        tuned = {name.removeprefix("policy."): value for name, value in values.items() if name.startswith("policy.")}
        return {**self.policy_parameters, **tuned}

    def register(self) -> None:
        """Run the rival's file, in each process once."""
        if self.file is not None:
            _run(self.file)

    def check(self) -> None:
        """Raises ValueError, or what the file raises, for a rival or policy that can't be made, also when tuned."""
        self.register()
        for end in (0, 1):
            values = {name: bounds[end] for name, bounds in self.ranges().items()}
            if self.rival is not None:
                create_rival(self.rival, self.rival_parameters(values))
            parameters = self.tuned_policy(values)
            create_policy(self.policy, {k: v for k, v in parameters.items() if (k, v) != ("judge", LIKELIEST)})

    def _rival_ranges(self) -> Mapping[str, Range]:
        assert self.rival is not None
        self.register()
        return rival_class(self.rival).ranges

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.rival is None and (self.file or self.parameters):
            raise ValueError("file and parameters belong to a rival, and there is none")
        if self.rival is not None and self.pull:
            raise ValueError("pull must be off beside a rival, whose loss knows none")
        for name, (low, high) in self.tune.items():
            _check_range(name, low, high)
        return self


class Bars(_Part):
    """The two methods that stand beside the baseline in the figure of criteria."""

    curriculum: str
    anti: str


class Suite(_Part):
    """Tasks × methods × seeds, and how each method is tuned and chosen."""

    tasks: dict[str, Task] = Field(min_length=1)
    methods: dict[str, Method] = Field(min_length=2)
    criteria: dict[str, Bars] = Field(default_factory=dict)  # of the figure: easy first and hard first by each
    baseline: str = "uniform"
    seeds: int = Field(5, ge=2, le=1000)
    trials: int = Field(8, ge=1)  # of the search, a method and task; the first has all as by default
    epochs: int = Field(25, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: tuple[float, float] = (3e-4, 1e-2)
    optimiser: Optimiser = "adam"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_range(LEARNING_RATE, *self.learning_rate)
        named = [self.baseline, *(name for bars in self.criteria.values() for name in (bars.curriculum, bars.anti))]
        for name in named:
            if name not in self.methods:
                raise ValueError(f"method {name!r} is named, and is none of {', '.join(self.methods)}")
        for name, method in self.methods.items():
            other = method.as_many_as
            if other is not None and (other not in self.methods or self.methods[other].as_many_as is not None):
                raise ValueError(f"as_many_as of {name} must be a method of its own, got {other!r}")
        if self.methods[self.baseline].as_many_as is not None:
            raise ValueError(f"as_many_as must be left out of the baseline, {self.baseline}")
        for task, own in self.tasks.items():
            for name in own.published:
                if name not in self.methods:
                    raise ValueError(f"published of {task} must be of {', '.join(self.methods)}, got one of {name!r}")
        return self

    def usual(self, task: str) -> Usual:
        """How the runs of a task train, but for the learning rate, which is tuned."""
        own = self.tasks[task]
        base = PAPER.get(own.public or "") or Usual(self.epochs, self.batch_size, self.optimiser)
        return replace(base, **own.training.model_dump(exclude_none=True, exclude={"learning_rate"}))

    def rates(self, task: str) -> tuple[float, float]:
        """The range in which the learning rate of a task is tuned."""
        own = self.tasks[task]
        if own.training.learning_rate is not None:
            return own.training.learning_rate
        paper = PAPER.get(own.public or "")
        return (paper.learning_rate / SPAN, paper.learning_rate * SPAN) if paper else self.learning_rate

    def only(self, tasks: Collection[str], methods: Collection[str]) -> Self:
        """With these tasks and these methods alone, beside the baseline; all where none is named.

        Raises ValueError for one that there is not.
        """
        for kind, wanted, there in (("task", tasks, self.tasks), ("method", methods, self.methods)):
            for name in wanted:
                if name not in there:
                    raise ValueError(f"{kind} must be one of {', '.join(there)}, got {name!r}")
        chosen = {self.baseline, *methods, *(self.methods[name].as_many_as for name in methods)}
        kept = {name: own for name, own in self.methods.items() if not methods or name in chosen}
        if len(kept) < 2:
            raise ValueError(f"method must be another than {self.baseline!r}, which all are held against")
        return self.model_copy(
            update={
                "tasks": {name: own for name, own in self.tasks.items() if not tasks or name in tasks},
                "methods": kept,
                "criteria": {
                    c: bars for c, bars in self.criteria.items() if {bars.curriculum, bars.anti} <= kept.keys()
                },
            }
        )

    @property
    def others(self) -> list[str]:
        """All methods but the baseline."""
        return [name for name in self.methods if name != self.baseline]


def read_suite(name_or_path: str, data: Path) -> Suite:
    """The suite of a TOML or JSON file, or the one shipped under a name, its methods tried once.

    data: the folder that prepared files lie in. Raises ValueError naming what is wrong and its value, OSError for a
    file that can't be read.
    """
    path = _path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        suite = Suite.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        told = message if first["type"] == "value_error" else f"{message}, got {first['input']!r}"
        raise ValueError(f"{path.name}: {where}: {told}".replace(": : ", ": ")) from None
    except ValueError as error:  # neither TOML nor JSON, nor text
        raise ValueError(f"{path.name}: {error}") from None
    tasks = {name: task.model_copy(update={"data": _placed(task.data, data)}) for name, task in suite.tasks.items()}
    methods = {
        name: method.model_copy(update={"file": method.file and (path.parent / method.file).resolve()})
        for name, method in suite.methods.items()
    }
    for name, method in methods.items():
        try:
            method.check()
        except (ValueError, OSError) as error:
            raise ValueError(f"{path.name}: method {name!r}: {error}") from None
    return suite.model_copy(update={"tasks": tasks, "methods": methods})


def shipped() -> list[str]:
    """Names of the suites that come with this package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


@cache
def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _path(name_or_path: str) -> Path:
    if name_or_path in shipped():
        return SHIPPED / f"{name_or_path}.toml"
    path = Path(name_or_path)
    if path.suffix not in (".toml", ".json"):
        raise ValueError(f"suite must be one of {', '.join(shipped())} or a .toml or .json file, got {name_or_path!r}")
    return path


def _placed(data: str, folder: Path) -> str:
    name, colon, own = data.partition(":")
    if name in RECIPES:
        return f"{name}:{(folder / own).absolute()}" if colon else data
    return str((folder / data).absolute()) if ".npz" in data else data


def _check_range(name: str, low: float, high: float) -> None:
    if not 0 < low < high:
        raise ValueError(f"the range of {name} must be two numbers above 0, the smaller first, got {low} and {high}")


@cache
def _run(path: Path) -> None:
    runpy.run_path(str(path))
