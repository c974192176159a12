"""The demo's report: one HTML page that needs nothing but itself."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

import numpy as np

from demo import plots
from demo.gallery import Card, cards
from demo.markup import bullets, chip, definitions, figures, legend, table, tiles
from demo.plan import BASELINE, NOISY, Condition
from demo.ranking import least_and_most, wrong_share_by_decile
from demo.results import JOINT, Facts, Results, RunResult
from demo.statistics import share
from demo.summary import Row, count, headline, with_interval
from trainer_client.reference.data import Dataset, watch

SHOWN: Final = 16  # samples at either end of the ranking
GALLERY_POLICY: Final = "balance"
LOW_REWARD: Final = -0.9
OFTEN: Final = 0.4  # were rewards spread evenly over [−1, 1], one in twenty would be as low
SECURITY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser loads nothing else

Section = tuple[str, str, str]  # anchor, title, HTML


def write_report(path: Path, results: Results, rows: Sequence[Row], dataset: Dataset) -> None:
    """Write the page."""
    path.write_text(page(results, rows, dataset), encoding="utf-8")


def page(results: Results, rows: Sequence[Row], dataset: Dataset) -> str:
    """The whole page as HTML."""
    sections = (
        ("result", "What came of it", _result(results, rows)),
        ("epochs", "Accuracy over epochs", _epochs(results)),
        ("scores", "How balanced the samples look", _scores(results)),
        ("choices", "What the policies chose, and what it earned", _choices(results)),
        ("samples", "The most and the least balanced samples", _samples(results, dataset)),
        ("swap", "A policy swapped in the middle of an epoch", _swap(results)),
        ("limits", "Limits", _limits(results, rows)),
        ("made", "How this was made", _made(results.facts)),
    )
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{SECURITY}">\n'
        f"<title>Balance-aware sample scheduling: demo of {escape(results.facts.date)}</title>\n"
        f"<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        f"{_unbroken(_header(results, rows, sections) + ''.join(map(_section, sections)))}</main>\n</body>\n</html>\n"
    )


def _unbroken(text: str) -> str:
    """Numbers stay on the line of their unit."""
    return re.sub(r"(?<=\d) (?=(%|ms|s|min)\b|%)", "\u00a0", text)


def _section(section: Section) -> str:
    anchor, title, content = section
    return f'<section id="{anchor}">\n<h2>{title}</h2>\n{content}\n</section>\n'


def _header(results: Results, rows: Sequence[Row], sections: Iterable[Section]) -> str:
    facts = results.facts
    batches = sum(r.batches for r in results.runs) + results.swapped.batches
    wait = max(r.worst_wait_seconds for r in results.runs)
    numbers = (
        (str(len(results.runs) + 1), f"training runs, {count(len(results.seeds), 'paired seed')}"),
        (f"{batches:,}".replace(",", "\u202f"), "batches, each chosen by the service over HTTP"),
        (f"{1000 * wait:.0f} ms", "longest that any compared run waited for a batch"),
        (
            f"{int(facts.seconds) // 60} min {int(facts.seconds) % 60} s",
            f"for everything, on {count(facts.cores, 'core')}",
        ),
    )
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    return (
        f'<header>\n<p class="kicker">Demo of the balance-aware sample scheduler, {escape(facts.date)}</p>\n'
        "<h1>Which samples should a two-modality network see next?</h1>\n"
        f'<p class="lead">{escape(headline(rows))}</p>\n'
        f'{tiles(numbers)}\n<nav aria-label="Sections">{links}</nav>\n</header>'
    )


def _result(results: Results, rows: Sequence[Row]) -> str:
    facts = results.facts
    tables = "".join(
        _table(condition, [r for r in rows if r.condition == condition]) for condition in results.conditions
    )
    return (
        "<p>A network learns the category of an emoji from its picture and its name "
        f"({facts.training_samples} training, {facts.validation_samples} validation, {facts.test_samples} test "
        "samples). A scheduler service decides which samples come next; all that differs between the runs of a seed "
        "is its policy. In the second table 30 % of the training labels were drawn anew at random; validation and "
        f"test labels are always the true ones.</p>{legend(results.policies)}{tables}"
        '<p class="note">Accuracy in % on the test set, with the weights of the epoch that was best on validation: '
        f"mean ± half the 95 % interval (Student t, {count(len(results.seeds), 'seed')}). Gain: of the fused head over "
        f"{BASELINE}, in points, paired by seed; the verdict says whether its interval excludes 0. Extra forward "
        "passes: samples sent through the model for the scheduler's sake alone. Time: of one run, while two ran side "
        "by side.</p><h3>Gain over uniform: mean, 95 % interval, and below it each seed</h3>"
        f"{figures((plots.gains(rows, c) for c in results.conditions), 'panels wide')}"
    )


def _table(condition: Condition, rows: Sequence[Row]) -> str:
    modalities = [head for head in rows[0].accuracy if head != JOINT]
    columns = [
        *((name, "") for name in ("policy", "fused", *modalities, f"gain over {BASELINE}")),
        ("verdict", "text"),
        *((name, "") for name in ("time", "extra forward passes", "longest wait")),
    ]
    return table(condition.title, columns, ((chip(row.policy), _cells(row, modalities)) for row in rows))


def _cells(row: Row, modalities: Sequence[str]) -> list[tuple[str, str]]:
    kind = row.verdict if row.verdict in ("better", "worse") else ""
    return [
        (with_interval(row.accuracy[JOINT]), "main"),
        *((with_interval(row.accuracy[head]), "") for head in modalities),
        ("–" if row.gain is None else with_interval(row.gain, sign=True), kind),
        (row.verdict or "baseline", f"text {kind}"),
        (f"{row.seconds:.1f} s", ""),
        (str(row.extra_forward_samples), ""),
        (f"{1000 * row.worst_wait_seconds:.0f} ms", ""),
    ]


def _epochs(results: Results) -> str:
    panels = "".join(
        figures(plots.accuracy(results, condition, head) for head in results.heads) for condition in results.conditions
    )
    return (
        "<p>Each modality has a head of its own, and a fused head sees both. Lines: mean over seeds; bands: from the "
        f"lowest to the highest seed. Measured on the {results.facts.validation_samples} validation samples after "
        f"every epoch.</p>{panels}"
    )


def _scores(results: Results) -> str:
    limits = plots.score_limits(results)
    panels = "".join(
        figures((plots.score_bands(results.of(condition, p)[0], limits) for p in results.policies), "panels four")
        for condition in results.conditions
    )
    return (
        "<p>The balance score of a sample is high where the heads of its modalities agree and its loss is low. Shown "
        "is its moving average ŝ, from −1 to 1, as each epoch was drawn from it. Dark band: the middle half of the "
        "training samples; light band: 5 % to 95 %. Where labels are noisy there are two medians: of the samples "
        "with a right label and, dashed, of those with a wrong one. First seed. The scores come from the training "
        "steps themselves; only curriculum has some before its first epoch, from its measuring "
        f"pass.</p>{panels}{_wrong_labels(results)}"
    )


def _wrong_labels(results: Results) -> str:
    if NOISY not in results.conditions:
        return ""
    picture = plots.wrong_labels(results, NOISY)
    return (
        "<h3>Do low scores find the wrong labels?</h3>"
        f"<p>{escape(wrong_label_sentence(results, _gallery_policy(results)))}</p>"
        f'<figure class="single">{picture.svg}<figcaption>Mean over seeds.</figcaption></figure>'
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


def _choices(results: Results) -> str:
    panels = []
    for condition in results.conditions:
        first = [results.of(condition, policy)[0] for policy in results.policies]
        more = [r for r in results.runs if r.run.condition == condition and _has_arms(r) and r not in first]
        panels.append(figures(plots.decisions(r) for r in [*first, *more]))
    return (
        "<p>At every interval, here an epoch, the policy sees an observation and picks an action. Above: the action. "
        "For the bandit each row is one of its ways of drawing, the shade is the probability that the bandit gave to "
        "it, and the dot is what it drew; grey dots are its warm-up. For the others: fields of the action, from 0 "
        "upwards, with their last value. Below: the reward of the interval, which is the gain in validation loss, "
        "scaled by the quantiles of the latest gains, plus a small term for the balance of the modalities. First "
        f"seed, and every seed of the bandit; read from <code>GET /v1/jobs/…/decisions</code>.</p>"
        f"<p>{escape(reward_sentence(results))}</p>{''.join(panels)}"
    )


def reward_sentence(results: Results) -> str:
    """How often the baseline, which chooses nothing, was punished all the same, from the numbers."""
    rewards = [d.reward for c in results.conditions for r in results.of(c, BASELINE) for d in r.decisions]
    known = [reward for reward in rewards if reward is not None]
    if not known:
        return ""
    low = share([reward <= LOW_REWARD for reward in known])
    sentence = f"Of the {len(known)} intervals of {BASELINE}, {100 * low:.0f} % got a reward of −0.9 or less"
    if low <= OFTEN:
        return sentence + "."
    return sentence + (
        ": gains shrink as training goes on, so the reward tells at least as much of an interval's place in the run as "
        "of what was drawn, and a policy that learns from it learns slowly."
    )


def _has_arms(result: RunResult) -> bool:
    return any("arm" in decision.detail for decision in result.decisions)


def _gallery_policy(results: Results) -> str:
    return GALLERY_POLICY if GALLERY_POLICY in results.policies else results.policies[0]


def _samples(results: Results, dataset: Dataset) -> str:
    policy = _gallery_policy(results)
    galleries = "".join(_gallery(results.of(condition, policy)[0], dataset) for condition in results.conditions)
    return (
        f"<p>By the last balance score of the run with {chip(policy)}, seed {results.seeds[0]}. Each picture is the "
        "32 × 32 pixels that the network sees; below it are the name that the network reads, the category that it "
        "was trained with, and the score ŝ. Late in training most samples are learnt, and many scores are close to "
        f"1.</p>{galleries}"
    )


def _gallery(result: RunResult, dataset: Dataset) -> str:
    least, most = least_and_most(result.scores, SHOWN)
    parts = []
    for name, numbers in (("Most", most), ("Least", least)):
        shown = cards(result, dataset, numbers)
        wrong = sum(card.is_wrong for card in shown)
        noted = f": {wrong} of {len(shown)} have a wrong label" if any(result.wrong_label) else ""
        title = f"{name} balanced, {result.run.condition.title}{noted}"
        parts.append(f'<h3>{escape(title)}</h3><ul class="cards">{"".join(map(_card, shown))}</ul>')
    return "".join(parts)


def _card(card: Card) -> str:
    picture = f'<img src="{escape(card.picture)}" alt="" width="96" height="96">' if card.picture else ""
    label = escape(card.label)
    if card.is_wrong:
        label = f'<span class="flag">wrong label</span>{label}, truly {escape(card.true_label)}'
    score = f"{card.score:+.2f}".replace("-", "−")
    kind = ' class="wrong"' if card.is_wrong else ""
    return f'<li{kind}>{picture}<b>{escape(card.name)}</b>{label} <span class="score">{score}</span></li>'


def _swap(results: Results) -> str:
    proof, run, said = results.swap, results.swapped.run, results.swap.announced
    agreement = ("better", "they agree") if proof.agrees else ("worse", "they do not agree")
    place = "in the middle of" if proof.in_the_middle else "at the start of"
    facts = (
        (
            "asked for",
            f"{said.policy}, at once; {said.trained} steps were trained then and {said.handed_out} handed out",
        ),
        ("announced", f"version {said.policy_version} from step {said.first_step} on, {place} epoch {said.epoch}"),
        (f"epoch {said.epoch}", f"steps {said.epoch_start} to {said.epoch_end - 1}"),
        ("seen by the trainer", f"its batches changed version at step {proof.changed_at}"),
        ("steps", "one after another, without a gap" if proof.contiguous else "with a gap"),
        (
            "longest step of the epoch",
            f"{_ms(proof.longest_step_seconds)}; median step {_ms(proof.median_step_seconds)}",
        ),
        ("longest wait for a batch", f"{_ms(proof.worst_wait_seconds)} in the whole run"),
    )
    picture = plots.swap_timeline(proof, results.swapped)
    return (
        f"<p>One more run began with {chip(run.policy)}; {run.loader_workers} loader processes pull its batches ahead, "
        f"{run.batch_size} samples each. While it trained, another process watched the job through the API and "
        f"swapped it to {chip(said.policy)}; the trainer was told nothing. What the service announced and where the "
        "trainer's batches "
        f'changed: <span class="{agreement[0]}">{agreement[1]}</span>.</p>'
        f'<div class="proof">{definitions(facts)}<figure class="single">{picture.svg}<figcaption>The first step of '
        "an epoch includes the validation before it.</figcaption></figure></div>"
    )


def _limits(results: Results, rows: Sequence[Row]) -> str:
    facts = results.facts
    accuracy = max(row.accuracy[JOINT].mean for row in rows) / 100
    validation, test = (
        100 * (accuracy * (1 - accuracy) / samples) ** 0.5 for samples in (facts.validation_samples, facts.test_samples)
    )
    compared = sum(row.gain is not None for row in rows)
    return bullets(
        (
            f"{count(len(results.seeds), 'seed')}: an interval from so few is wide, and its width is itself "
            f"uncertain. Of {count(compared, 'comparison')} at 95 %, one may well err by chance.",
            f"An accuracy on {facts.validation_samples} validation samples has a standard error of about "
            f"{validation:.1f} points, one on {facts.test_samples} test samples of {test:.1f}. All runs share these "
            "samples, so differences between policies are steadier than that, but small ones are noise.",
            "The intervals speak of other seeds on this data set and this network, not of other data.",
            f"{count(results.runs[0].run.epochs, 'epoch')} are few, above all for the bandit, which gets one reward "
            "an epoch.",
            "The policies run with their default settings, but for curriculum's growth, which is scaled to the "
            "length of the run. Nothing was tuned on the test set.",
            "Times were taken with two runs side by side and whatever else the machine did.",
        )
    )


def _made(facts: Facts) -> str:
    return definitions(
        (
            ("command", f"`{facts.command}`"),
            ("date", facts.date),
            ("machine", f"{count(facts.cores, 'core')}, {facts.machine}, no GPU used"),
            ("wall time", f"{facts.seconds:.0f} s for all runs, without drawing this page"),
            (
                "training",
                "Adam, learning rate 0.001, batches of 64; loss 0.5 · fused head + 0.5 · sum of the modalities' heads",
            ),
            ("versions", ", ".join(f"{name} {number}" for name, number in facts.versions.items())),
            ("data and licences", facts.licence),
            ("built in too, not used", watch.LICENCE),
            ("raw results", "`results.json` beside this page"),
        )
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"
