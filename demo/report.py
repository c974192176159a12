"""The demo's report: one HTML page that needs nothing but itself."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

import numpy as np

from demo import plots
from demo.canvas import POLICY, Picture
from demo.gallery import Card, cards
from demo.plan import BASELINE, NOISY, Condition
from demo.ranking import least_and_most, wrong_share_by_decile
from demo.results import JOINT, Facts, Results, RunResult
from demo.statistics import share
from demo.summary import Row, headline, with_interval
from trainer_client.reference.data import Dataset

SHOWN: Final = 12  # samples at either end of the ranking
GALLERY_POLICY: Final = "balance"

ABOUT: Final = {
    "uniform": "every sample once an epoch in random order: the baseline",
    "curriculum": "BSS-H: ranked once by a measuring pass before training, most balanced first, a growing share",
    "balance": "BSS-L: draws with replacement in proportion to e^ŝ, refreshed every epoch",
    "bandit": "EXP3.S: learns from the reward which of six ways of drawing to use",
}

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
        f"<title>Balance-aware sample scheduling: demo of {escape(results.facts.date)}</title>\n"
        f"<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        f"{_header(results, rows, sections)}\n{''.join(map(_section, sections))}</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    anchor, title, content = section
    return f'<section id="{anchor}">\n<h2>{title}</h2>\n{content}\n</section>\n'


def _header(results: Results, rows: Sequence[Row], sections: Iterable[Section]) -> str:
    facts = results.facts
    batches = sum(r.batches for r in results.runs) + results.swapped.batches
    wait = max(r.worst_wait_seconds for r in results.runs)
    numbers = (
        (str(len(results.runs) + 1), f"training runs, {len(results.seeds)} paired seeds"),
        (f"{batches:,}".replace(",", " "), "batches, each chosen by the service over HTTP"),
        (f"{1000 * wait:.0f} ms", "longest that any run waited for a batch"),
        (_minutes(facts.seconds), f"for everything, on {_count(facts.cores, 'core')}"),
    )
    tiles = "".join(f"<div><b>{escape(number)}</b><span>{escape(text)}</span></div>" for number, text in numbers)
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    return (
        f'<header>\n<p class="kicker">Demo of the balance-aware sample scheduler, {escape(facts.date)}</p>\n'
        "<h1>Which samples should a two-modality network see next?</h1>\n"
        f'<p class="lead">{escape(headline(rows))}</p>\n'
        f'<div class="facts">{tiles}</div>\n<nav aria-label="Sections">{links}</nav>\n</header>'
    )


def _result(results: Results, rows: Sequence[Row]) -> str:
    facts = results.facts
    tables = "".join(
        _table(condition, [r for r in rows if r.condition == condition]) for condition in results.conditions
    )
    forests = _figures(plots.gains(rows, condition) for condition in results.conditions)
    return (
        f"<p>A network learns the category of an emoji from its picture and its name ({facts.training_samples} training, "
        f"{facts.validation_samples} validation, {facts.test_samples} test samples). A scheduler service decides which "
        "samples come next; all that differs between the runs of a seed is its policy. In the second table 30 % of the "
        "training labels were drawn anew at random; validation and test labels are always the true ones.</p>"
        f"{_legend(results)}{tables}"
        '<p class="note">Accuracy in % on the test set, with the weights of the epoch that was best on validation: mean ± '
        f"half the 95 % interval (Student t, {len(results.seeds)} seeds). Gain: of the fused head over {BASELINE}, "
        "in points, paired by seed; the verdict says whether its interval excludes 0. Extra forward passes: samples sent "
        "through the model for the scheduler's sake alone. Time: of one run, while two ran side by side.</p>"
        "<h3>Gain over uniform: mean, 95 % interval, and each seed below it</h3>"
        f'<div class="panels wide">{forests}</div>'
    )


def _table(condition: Condition, rows: Sequence[Row]) -> str:
    heads = list(rows[0].accuracy)
    modalities = [head for head in heads if head != JOINT]
    columns = [
        "fused",
        *modalities,
        f"gain over {BASELINE}",
        "verdict",
        "time",
        "extra forward passes",
        "longest wait",
    ]
    head = "".join(
        f'<th scope="col"{" class=text" if name == "verdict" else ""}>{escape(name)}</th>'
        for name in ["policy", *columns]
    )
    body = "".join(_row(row, columns, modalities) for row in rows)
    return (
        f"<table><caption>{escape(condition.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _row(row: Row, columns: Sequence[str], modalities: Sequence[str]) -> str:
    verdict = row.verdict or "baseline"
    kind = row.verdict if row.verdict in ("better", "worse") else ""
    cells = [
        (with_interval(row.accuracy[JOINT]), "main"),
        *((with_interval(row.accuracy[head]), "") for head in modalities),
        ("–" if row.gain is None else with_interval(row.gain, sign=True), kind),
        (verdict, f"text {kind}"),
        (f"{row.seconds:.1f} s", ""),
        (str(row.extra_forward_samples), ""),
        (f"{1000 * row.worst_wait_seconds:.0f} ms", ""),
    ]
    filled = "".join(
        f'<td class="{kind}" data-label="{escape(name)}">{escape(text)}</td>'
        for name, (text, kind) in zip(columns, cells, strict=True)
    )
    return f"<tr><td>{_policy(row.policy)}</td>{filled}</tr>"


def _epochs(results: Results) -> str:
    rows = "".join(
        f'<div class="panels">{_figures(plots.accuracy(results, condition, head) for head in results.heads)}</div>'
        for condition in results.conditions
    )
    return (
        "<p>Each modality has a head of its own, and a fused head sees both. Lines: mean over seeds; bands: from the "
        f"lowest to the highest seed. Measured on the {results.facts.validation_samples} validation samples.</p>"
        f"{_legend(results)}{rows}"
    )


def _scores(results: Results) -> str:
    limits = plots.score_limits(results)
    rows = "".join(
        f'<div class="panels">{_figures(plots.score_bands(results.of(condition, p)[0], limits) for p in results.policies)}</div>'
        for condition in results.conditions
    )
    return (
        "<p>The balance score of a sample is high where the heads of its modalities agree and its loss is low; here as "
        "moving average ŝ, from −1 to 1, as each epoch was drawn from it. Dark band: the middle half of the training "
        "samples; light band: 5 % to 95 %. With noisy labels there are two medians: of the samples whose label is right, and, "
        f"dashed, of those whose label is wrong. First seed; the scores come from training steps except for curriculum's first."
        f"</p>{rows}{_wrong_labels(results)}"
    )


def _wrong_labels(results: Results) -> str:
    if NOISY not in results.conditions:
        return ""
    picture = plots.wrong_labels(results, NOISY)
    return (
        "<h3>Do low scores find the wrong labels?</h3>"
        f"<p>{escape(wrong_label_sentence(results, GALLERY_POLICY))}</p>"
        f'<figure class="single">{picture.svg}<figcaption>Mean over seeds.</figcaption></figure>'
    )


def wrong_label_sentence(results: Results, policy: str) -> str:
    """How the share of wrong labels differs between the ends of the ranking, from the numbers."""
    policy = policy if policy in results.policies else results.policies[0]
    runs = results.of(NOISY, policy)
    tenths = np.mean([wrong_share_by_decile(r) for r in runs], axis=0)
    least, most = float(tenths[0]), float(tenths[-1])
    overall = float(np.mean([share(r.wrong_label) for r in runs]))
    verb = "found" if least > overall > most else "did not find"
    return (
        f"Under {policy}, {100 * least:.0f} % of the labels in the least balanced tenth are wrong and {100 * most:.0f} % in the "
        f"most balanced tenth, against {100 * overall:.0f} % of all: at its ends the ranking {verb} the wrong labels. "
        "(Labels drawn at random are right by chance once in seven times.)"
    )


def _choices(results: Results) -> str:
    parts = []
    for condition in results.conditions:
        shown = [results.of(condition, policy)[0] for policy in results.policies]
        bandits = [r for r in results.runs if r.run.condition == condition and _has_arms(r) and r not in shown]
        parts.append(f'<div class="panels">{_figures(plots.decisions(r) for r in [*shown, *bandits])}</div>')
    return (
        "<p>At every interval, here an epoch, the policy sees an observation and picks an action. Above: the action. For the "
        "bandit, each row is one of its ways of drawing, the shade is the probability that it gave to it, and the dot is what "
        "it drew; grey dots are its warm-up. For the others, the fields of the action from 0 upwards, with the last value. "
        "Below: the reward of the interval, from the gain in validation loss scaled by the quantiles of the latest gains, "
        "plus a small term for the balance of the modalities. First seed, and every seed of the bandit; all of it read from "
        f"<code>GET /v1/jobs/…/decisions</code>.</p>{''.join(parts)}"
    )


def _has_arms(result: RunResult) -> bool:
    return any("arm" in decision.detail for decision in result.decisions)


def _samples(results: Results, dataset: Dataset) -> str:
    policy = GALLERY_POLICY if GALLERY_POLICY in results.policies else results.policies[0]
    parts = [
        f"<p>By the last balance score of the run with {_policy(policy)}, seed {results.seeds[0]}. Each picture is the "
        "32 × 32 pixels that the network sees; below it the name that it reads, the category it was trained with, and the "
        "score ŝ.</p>"
    ]
    for condition in results.conditions:
        parts.append(_gallery(results.of(condition, policy)[0], dataset))
    return "".join(parts)


def _gallery(result: RunResult, dataset: Dataset) -> str:
    least, most = least_and_most(result.scores, SHOWN)
    title = escape(result.run.condition.title)
    parts = []
    for name, numbers in (("Most", most), ("Least", least)):
        shown = cards(result, dataset, numbers)
        wrong = sum(card.is_wrong for card in shown)
        noted = f": {wrong} of {len(shown)} have a wrong label" if any(result.wrong_label) else ""
        parts.append(f'<h3>{name} balanced, {title}{noted}</h3><ul class="cards">{"".join(map(_card, shown))}</ul>')
    return "".join(parts)


def _card(card: Card) -> str:
    picture = f'<img src="{escape(card.picture)}" alt="" width="96" height="96">' if card.picture else ""
    label = escape(card.label)
    if card.is_wrong:
        label = f'<span class="flag">wrong label</span>{label}, truly {escape(card.true_label)}'
    kind = ' class="wrong"' if card.is_wrong else ""
    return f'<li{kind}>{picture}<b>{escape(card.name)}</b>{label} <span class="score">{signed2(card.score)}</span></li>'


def signed2(value: float) -> str:
    """A score with its sign and two places."""
    return f"{value:+.2f}".replace("-", "−")


def _swap(results: Results) -> str:
    proof, run = results.swap, results.swapped.run
    said = proof.announced
    verdict = (
        '<span class="better">they agree</span>' if proof.agrees else '<span class="worse">they do not agree</span>'
    )
    place = "in the middle of" if proof.in_the_middle else "at the start of"
    facts = (
        (
            "asked for",
            f"{said.policy} at once, after {said.trained} steps were fed back and {said.handed_out} handed out",
        ),
        (
            "announced",
            f"version {said.policy_version} from step {said.first_step} on, {place} epoch {said.epoch} "
            f"(steps {said.epoch_start} to {said.epoch_end - 1})",
        ),
        ("seen by the trainer", f"its batches changed version at step {proof.changed_at}"),
        ("steps", "one after another, without a gap" if proof.contiguous else "with a gap"),
        (
            "longest step of that epoch",
            f"{1000 * proof.longest_step_seconds:.0f} ms (median of the run {1000 * proof.median_step_seconds:.0f} ms)",
        ),
        ("longest wait for a batch", f"{1000 * proof.worst_wait_seconds:.0f} ms in the whole run"),
    )
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    picture = plots.swap_timeline(proof, results.swapped)
    return (
        f"<p>One more run began with {_policy(run.policy)}, with {run.loader_workers} loader processes that pull batches ahead. "
        f"While it trained, another process watched the job through the API and swapped it to {_policy(said.policy)}; the "
        f"trainer was told nothing. What the service announced and where the trainer's batches changed: {verdict}.</p>"
        f'<div class="proof"><dl>{listed}</dl><figure class="single">{picture.svg}</figure></div>'
    )


def _limits(results: Results, rows: Sequence[Row]) -> str:
    facts = results.facts
    accuracy = max((row.accuracy[JOINT].mean for row in rows), default=50.0) / 100
    noise = [100 * (accuracy * (1 - accuracy) / size) ** 0.5 for size in (facts.validation_samples, facts.test_samples)]
    compared = sum(row.gain is not None for row in rows)
    items = (
        f"{_count(len(results.seeds), 'seed')}: an interval from so few is wide, and its own width is uncertain; "
        f"of {_count(compared, 'comparison')} at 95 %, one may well err by chance.",
        f"An accuracy on {facts.validation_samples} validation samples has a standard error of about {noise[0]:.1f} points and "
        f"one on {facts.test_samples} test samples of {noise[1]:.1f}. All runs share these samples, so differences between "
        "policies are steadier than that, but small ones are noise.",
        "The intervals speak of other seeds on this data set and this network, not of other data.",
        f"{results.runs[0].run.epochs} epochs are short, above all for the bandit, which sees one reward an epoch.",
        "The settings of the policies are their defaults, but for curriculum's growth, scaled to the length of the run. "
        "Nothing was tuned on the test set.",
        "Times were taken with two runs side by side and whatever else the machine did.",
    )
    return f'<ul class="plain">{"".join(f"<li>{escape(item)}</li>" for item in items)}</ul>'


def _made(facts: Facts) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts.versions.items())
    listed = (
        ("command", f"<code>{escape(facts.command)}</code>"),
        ("date", escape(facts.date)),
        ("machine", escape(f"{_count(facts.cores, 'core')}, {facts.machine}, no GPU used")),
        ("wall time", escape(f"{facts.seconds:.0f} s for all runs, without this page")),
        ("training", "Adam, learning rate 0.001, batches of 64; loss 0.5 · fused + 0.5 · sum of the modalities' heads"),
        ("versions", escape(versions)),
        ("data and licences", escape(facts.licence)),
        ("raw results", "<code>results.json</code> beside this page"),
    )
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in listed)}</dl>"


def _figures(pictures: Iterable[Picture]) -> str:
    return "".join(f"<figure>{picture.svg}</figure>" for picture in pictures)


def _legend(results: Results) -> str:
    entries = "".join(
        f'<li style="--hue: var({_variable(policy)})"><b>{escape(policy)}</b> {escape(ABOUT.get(policy, ""))}</li>'
        for policy in results.policies
    )
    return f'<ul class="legend">{entries}</ul>'


def _policy(name: str) -> str:
    return f'<span class="policy" style="--hue: var({_variable(name)})">{escape(name)}</span>'


def _variable(policy: str) -> str:
    return f"--{policy}" if policy in POLICY else "--other-policy"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
