"""The demo's report: one HTML page that needs nothing but itself."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from demo.page import plots
from demo.page.canvas import VARIABLES, colour_of
from demo.page.gallery import Card, cards
from demo.plan import BASELINE, NOISY, Condition
from demo.ranking import least_and_most, share, wrong_share_by_decile
from demo.results import JOINT, Results, RunResult
from demo.summary import Row, count, headline, signed, with_interval
from trainer_client.reference.data import Dataset, watch

SHOWN: Final = 16  # samples at either end of the ranking
GALLERY_POLICY: Final = "balance"
LOW_REWARD: Final = -0.9
OFTEN: Final = 0.4  # were rewards spread evenly over [−1, 1], one in twenty would be as low


def write_report(path: Path, results: Results, rows: Sequence[Row], dataset: Dataset) -> None:
    """Write the page."""
    path.write_text(page(results, rows, dataset), encoding="utf-8")


def page(results: Results, rows: Sequence[Row], dataset: Dataset) -> str:
    """The whole page as HTML."""
    policy = _gallery_policy(results)
    accuracy = max(row.accuracy[JOINT].mean for row in rows) / 100
    return _template().render(
        results=results,
        facts=results.facts,
        rows=rows,
        headline=headline(rows),
        baseline=BASELINE,
        seeds=len(results.seeds),
        batches=sum(r.batches for r in results.runs) + results.swapped.batches,
        standard_error=lambda samples: 100 * (accuracy * (1 - accuracy) / samples) ** 0.5,
        wrong_label_sentence=wrong_label_sentence(results, policy) if NOISY in results.conditions else "",
        reward_sentence=reward_sentence(results),
        gallery_policy=policy,
        galleries=_galleries(results, policy, dataset),
        watch_licence=watch.LICENCE,
        **_pictures(results, rows),
    )


def wrong_label_sentence(results: Results, policy: str) -> str:
    """How the share of wrong labels differs between the ends of the ranking, from the numbers."""
    runs = results.of(NOISY, policy)
    tenths = np.mean([wrong_share_by_decile(r) for r in runs], axis=0)
    least, most = float(tenths[0]), float(tenths[-1])
    overall = float(np.mean([share(r.wrong_label) for r in runs]))
    end = (
        "tells wrong labels from right ones" if least > overall > most else "does not tell wrong labels from right ones"
    )
    return (
        f"Under {policy}, {100 * least:.0f} % of the labels in the least balanced tenth are wrong and "
        f"{100 * most:.0f} % of those in the most balanced tenth, against {100 * overall:.0f} % of all: at its ends "
        f"the ranking {end}. (A label drawn at random is the right one once in seven times.)"
    )


def reward_sentence(results: Results) -> str:
    """How often the baseline, which chooses nothing, was punished all the same, from the numbers."""
    decisions = [d for c in results.conditions for r in results.of(c, BASELINE) for d in r.decisions]
    rewards = [d.reward for d in decisions if d.reward is not None]
    if not rewards:
        return ""
    low = share([reward <= LOW_REWARD for reward in rewards])
    sentence = f"Of the {len(rewards)} intervals of {BASELINE}, {100 * low:.0f} % got a reward of −0.9 or less"
    if low <= OFTEN:
        return sentence + "."
    return sentence + (
        ": gains shrink as training goes on, so the reward tells at least as much of an interval's place in the run as "
        "of what was drawn, and a policy that learns from it learns slowly."
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
        "signed": signed,
        "thousands": lambda number: f"{number:,}".replace(",", "\u202f"),
        "unbroken": _unbroken,
        "with_interval": with_interval,
    }
    return environment.get_template("report.html.j2")


def _unbroken(html: Markup) -> Markup:
    """Numbers stay on the line of their unit."""
    return Markup(re.sub(r"(?<=\d) (?=(%|ms|s|min)\b|%)", "\u00a0", html))


def _pictures(results: Results, rows: Sequence[Row]) -> dict[str, Any]:
    """The template's pictures by its names for them; lists of lists hold a row for each state of the data."""
    limits = plots.score_limits(results)
    conditions, policies = results.conditions, results.policies
    return {
        "gains": [plots.gains(rows, c) for c in conditions],
        "accuracies": [[plots.accuracy(results, c, head) for head in results.heads] for c in conditions],
        "scores": [[plots.score_bands(results.of(c, p)[0], limits) for p in policies] for c in conditions],
        "wrong_labels": plots.wrong_labels(results, NOISY) if NOISY in conditions else None,
        "choices": [[plots.decisions(r) for r in _shown_choosing(results, c)] for c in conditions],
        "timeline": plots.swap_timeline(results.swap, results.swapped),
    }


def _shown_choosing(results: Results, condition: Condition) -> list[RunResult]:
    """The runs of the first seed, then all others of the bandit."""
    first = [results.of(condition, policy)[0] for policy in results.policies]
    return first + [r for r in results.runs if r.run.condition == condition and _has_arms(r) and r not in first]


def _has_arms(result: RunResult) -> bool:
    return any("arm" in decision.detail for decision in result.decisions)


def _gallery_policy(results: Results) -> str:
    return GALLERY_POLICY if GALLERY_POLICY in results.policies else results.policies[0]


def _galleries(results: Results, policy: str, dataset: Dataset) -> list[tuple[str, RunResult, list[Card]]]:
    """Which end of the ranking by balance, of which run, and the samples there."""
    galleries = []
    for result in (results.of(condition, policy)[0] for condition in results.conditions):
        least, most = least_and_most(result.scores, SHOWN)
        galleries += [(end, result, cards(result, dataset, ns)) for end, ns in (("Most", most), ("Least", least))]
    return galleries
