"""`bss research ope`: what policies would have earned on the logged runs of another, and whether the log can tell."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from envs.research.episodes import Episodes

if TYPE_CHECKING:
    from rich.table import Table

    from envs.research.estimators import Estimate
    from envs.research.statistics import Interval
    from envs.research.verdict import Verdict


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
                {
                    "estimator": e.name,
                    **_numbers(_supported(e)),
                    "effective_sample_size": _known(e.effective_sample_size),
                }
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
    from bss_service.terminal import fail, screen
    from envs.research.dataset import read

    try:
        episodes, left_out = read(dataset)
        reports = [judged(episodes, name, discount=discount, seed=seed) for name in policy]
    except (ValueError, OSError) as error:
        fail(str(error))
    if as_json:
        answer = {"runs": len(episodes), "runs_left_out": left_out, "policies": [r.as_dict() for r in reports]}
        typer.echo(json.dumps(answer))
        return
    for report in reports:
        screen().print(_table(report, len(episodes), left_out))
        screen().print(f"{report.verdict.answer}: {report.verdict.reason}")


def judged(episodes: Episodes, reference: str, *, discount: float, seed: int) -> Report:
    """All estimates and the verdict. The seed alone decides them, whatever other policies are judged beside."""
    from envs.research.estimators import behaviour_value, estimates, gather
    from envs.research.targets import load_policy
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
        table.add_row(estimate.name, *_cells(_supported(estimate)), _text(estimate.effective_sample_size, ".1f"))
    return table


def _supported(estimate: "Estimate") -> "Interval":
    """The estimate; unknown where not even one run speaks of the policy, for the rest is extrapolation."""
    from envs.research.statistics import UNKNOWN

    return UNKNOWN if estimate.effective_sample_size < 1 else estimate.interval


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
