"""The demo's report: one HTML page that needs nothing but itself."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from demo.headline import beside_it, headline
from demo.page import plots
from demo.page.canvas import VARIABLES, colour_of
from demo.page.gallery import Card, cards
from demo.plan import BASELINE, NOISE, SHOWN, Condition
from demo.results import BINS, RIGHT, TOP, WRONG, Results, RunResult
from demo.summary import Row, count, with_interval
from trainer_client.reference.data import Dataset

CARDS: Final = 24  # of suspects with pictures
LINES: Final = 8  # of suspects without


def write_report(path: Path, results: Results, rows: Sequence[Row], load: Callable[[str], Dataset]) -> None:
    """Write the page; load: gives a whole data set by its name."""
    path.write_text(page(results, rows, load), encoding="utf-8")


def page(results: Results, rows: Sequence[Row], load: Callable[[str], Dataset]) -> str:
    """The whole page as HTML."""
    html: str = _template().render(
        results=results,
        facts=results.facts,
        rows=rows,
        headline=headline(rows),
        beside_it=beside_it(rows),
        baseline=BASELINE,
        shown=SHOWN,
        top=TOP,
        noise=f"{100 * NOISE:.0f} %",
        wrong_share=_wrong_share(results),
        seeds=len(results.seeds),
        compared=sum(row.test.gain is not None for row in rows),
        batches=sum(r.batches for r in results.runs) + results.swapped.batches,
        suspect_sentences=[suspect_sentence(results, condition) for condition in _told(results)],
        galleries=list(_galleries(results, load)),
        **_pictures(results, rows),
    )
    return html


def suspect_sentence(results: Results, condition: Condition) -> str:
    """How well P(right) tells wrong labels from right ones, from the numbers of all seeds."""
    right, wrong = (
        np.sum([run.beliefs[name] for run in results.of(condition, SHOWN)], axis=0) for name in (RIGHT, WRONG)
    )
    right_out, wrong_out = right[: BINS // 2].sum(), wrong[: BINS // 2].sum()
    sentence = (
        f"{condition.title}: {100 * _share(wrong.sum(), right.sum() + wrong.sum()):.0f} % of all labels are wrong."
    )
    if not right_out + wrong_out:
        return f"{sentence} None is held for wrong."
    return (
        f"{sentence} Of those that the service holds for wrong (P(right) below one half) "
        f"{100 * _share(wrong_out, right_out + wrong_out):.0f} % are, and these are "
        f"{100 * _share(wrong_out, wrong.sum()):.0f} % of all wrong ones."
    )


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "counted": count,
        "hue": lambda policy: VARIABLES[colour_of(policy)],
        "ms": lambda seconds: f"{1000 * seconds:.0f} ms",
        "percent": lambda share: f"{100 * share:.{0 if share >= 0.01 else 1}f} %",
        "thousands": lambda number: f"{number:,}".replace(",", "\u202f"),
        "unbroken": _unbroken,
        "with_interval": with_interval,
    }
    return environment.get_template("report.html.j2")


def _unbroken(html: Markup) -> Markup:
    """Numbers stay on the line of their unit."""
    return Markup(re.sub(r"(?<=\d) (?=(%|ms|s|min)\b|%)", "\u00a0", html))


def _pictures(results: Results, rows: Sequence[Row]) -> dict[str, Any]:
    """The template's pictures by its names for them."""
    compared = [c for c in results.conditions if any(r.condition == c and r.test.gain is not None for r in rows)]
    return {
        "gains": [plots.gains(rows, condition) for condition in compared],
        "accuracies": [plots.accuracy(results, condition) for condition in results.conditions],
        "beliefs": [plots.beliefs(results, condition) for condition in _told(results)],
        "timeline": plots.swap_timeline(results.swap, results.swapped),
    }


def _told(results: Results) -> list[Condition]:
    """Where there are wrong labels to be told, and the policy that tells them was run."""
    return [c for c in results.conditions if c.noisy_labels and results.of(c, SHOWN)]


def _galleries(results: Results, load: Callable[[str], Dataset]) -> Iterator[tuple[str, RunResult, list[Card]]]:
    """Of each data set with wrong labels: its name, the first seed's run, and its suspects."""
    for condition in _told(results):
        run, dataset = results.of(condition, SHOWN)[0], load(condition.data)
        has_pictures = any(values.ndim == 4 for values in dataset.modalities.values())
        yield condition.data, run, cards(run, dataset, run.suspects[: CARDS if has_pictures else LINES])


def _wrong_share(results: Results) -> str:
    """Share of the noisy labels that are wrong, over all runs that tell."""
    counts = [run.beliefs for run in results.runs if run.run.condition.noisy_labels]
    wrong, right = (sum(sum(each[name]) for each in counts) for name in (WRONG, RIGHT))
    return f"{100 * _share(wrong, wrong + right):.0f} %"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
