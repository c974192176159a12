"""`bss research ope`: what policies would have earned on the logged runs of another, and whether the log can tell."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from bss_service.core.action import NAMED_ACTIONS, Action
from bss_service.core.arrays import Float64, Floats
from envs.research.episodes import Episodes, TargetPolicy

if TYPE_CHECKING:
    from rich.table import Table

    from envs.research.estimators import Estimate
    from envs.research.statistics import Interval
    from envs.research.verdict import Verdict

_CLOSE = 1e-5  # an action's vector travels as float32


@dataclass(frozen=True, slots=True)
class FixedAction:
    """The same action always: deterministic, so that a log of drawn named actions can tell of it and one of densities
    can't.
    """

    action: Action

    def log_probability(self, observations: Floats, raw_actions: Floats) -> Float64:
        """0 where the logged action is this one, else −inf."""
        same = (np.abs(raw_actions - self.action.to_vector()) <= _CLOSE).all(axis=1)
        return np.where(same, 0.0, -np.inf)

    def sample(self, observations: Floats, rng: np.random.Generator) -> Floats:
        """This action for each observation."""
        return np.tile(self.action.to_vector(), (len(observations), 1))


@dataclass(frozen=True, slots=True)
class Report:
    """What the log says of one policy."""

    policy: str
    behaviour: "Interval"
    estimates: "list[Estimate]"
    verdict: "Verdict"

    def as_dict(self) -> dict[str, Any]:
        """JSON values; null where nothing is known."""
        return {
            "policy": self.policy,
            "behaviour": _numbers(self.behaviour),
            "estimates": [
                {"estimator": e.name, **_numbers(e.interval), "effective_sample_size": _known(e.effective_sample_size)}
                for e in self.estimates
            ],
            "gain": _numbers(self.verdict.gain),
            "verdict": self.verdict.answer,
            "reason": self.verdict.reason,
        }


def ope(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id of a Minari data set, as bss/NAME-v0.")],
    policy: Annotated[list[str], typer.Option(metavar="ARTEFACT|NAME", help="A policy to be judged. Repeatable.")],
    discount: Annotated[float, typer.Option(min=0, max=1, help="γ, from one decision to the next.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of resampling and of the fitted Q function.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Judge policies on the logged runs of another one.

    The value is the sum of a run's rewards, so these must add up: those of
    jobs whose reward has the basis "improvement" do.

    Prints the value that each estimator gives, its 95 % interval and its
    effective sample size, and whether the log can tell at all.
    """
    from bss_service.console import _fail, _screen
    from envs.research.dataset import read

    try:
        episodes, left_out = read(dataset)
        reports = [judged(episodes, name, discount=discount, seed=seed) for name in policy]
    except ValueError as error:
        _fail(str(error))
    if as_json:
        answer = {"runs": len(episodes), "runs_left_out": left_out, "policies": [r.as_dict() for r in reports]}
        typer.echo(json.dumps(answer))
        return
    for report in reports:
        _screen().print(_table(report, len(episodes), left_out))
        _screen().print(f"{report.verdict.answer}: {report.verdict.reason}")


def load_policy(reference: str) -> TargetPolicy:
    """The policy that a name of NAMED_ACTIONS, or the path of an artefact, stands for. Raises ValueError.

    Artefacts join here: what is needed of one is `log_probability` and `sample`.
    """
    if reference in NAMED_ACTIONS:
        return FixedAction(NAMED_ACTIONS[reference])
    raise ValueError(
        f"policy must be one of {', '.join(NAMED_ACTIONS)}, got {reference!r}: other installed policies are "
        "deterministic paths or learn as they go, and neither has a probability for a logged action"
    )


def judged(episodes: Episodes, reference: str, *, discount: float, seed: int) -> Report:
    """All estimates and the verdict. The seed alone decides them, whatever other policies are judged beside."""
    from envs.research.estimators import behaviour_value, estimates, gather
    from envs.research.verdict import judge

    rng = np.random.default_rng(seed)
    evidence = gather(episodes, load_policy(reference), rng, discount=discount)
    return Report(reference, behaviour_value(evidence, rng), estimates(evidence, rng), judge(evidence, rng))


def _table(report: Report, runs: int, left_out: int) -> "Table":
    from rich import box
    from rich.table import Table

    title = f"{report.policy} on {runs} runs" + (f"; {left_out} with missing rewards left out" if left_out else "")
    table = Table("", "value", "95 % interval", "effective runs", title=title, title_justify="left", box=box.SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("the log itself", *_cells(report.behaviour), str(runs))
    for estimate in report.estimates:
        table.add_row(estimate.name, *_cells(estimate.interval), _text(estimate.effective_sample_size, ".1f"))
    return table


def _cells(interval: "Interval") -> tuple[str, str]:
    if np.isnan(interval.value):
        return "–", "–"
    return _text(interval.value), f"{_text(interval.low)} to {_text(interval.high)}"


def _text(value: float, form: str = ".3f") -> str:
    return "–" if np.isnan(value) else format(value, form)


def _numbers(interval: "Interval") -> dict[str, float | None]:
    return {"value": _known(interval.value), "low": _known(interval.low), "high": _known(interval.high)}


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
