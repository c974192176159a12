"""How `bss` shows jobs and decisions on a terminal."""

import json
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bss_service.core.action import Action
from bss_service.core.validation.reward import Metric
from bss_service.protocol.artefacts import ArtefactManifest, JudgeManifest, PolicyManifest
from bss_service.protocol.decisions import Chosen, Decision, DecisionLog
from bss_service.protocol.jobs import JobSpec, JobState
from bss_service.protocol.message import Message
from bss_service.protocol.policies import PolicyAnswer, PolicyList
from bss_service.protocol.samples import SampleEvidence, SampleList, SampleState
from bss_service.protocol.validation import ValidationReport

REWARDS_SHOWN: Final = 6
SPARK_WIDTH: Final = 32  # characters of a curve
BLOCKS: Final = "▁▂▃▄▅▆▇█"
GROUPS_SHOWN: Final = 8
HASH_SHOWN: Final = 12  # characters: enough to name an artefact by


class WatchView(Message):
    """What `bss watch` sees at one moment."""

    state: JobState
    decisions: list[Decision]  # the latest, in order
    steps_per_second: float | None  # handed out since the look before; null at the first
    outage: str | None = None  # why the service could not be asked; then the rest is what was seen before


def jobs_view(states: Sequence[JobState]) -> RenderableType:
    """All jobs, one a row."""
    if not states:
        return Text("no jobs yet")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("job", style="cyan", overflow="fold")
    table.add_column("step", justify="right")
    table.add_column("epoch", justify="right")
    table.add_column("policy", overflow="fold")
    table.add_column("accuracy", justify="right")
    table.add_column("reward", justify="right")
    for state in states:
        accuracy = f"{state.validation.accuracy:.3f}" if state.validation else "–"
        policy = _versioned(state.policy.policy.name, state.policy.policy_version)
        reward = _rewards([known for known in state.rewards if known is not None], 1)
        table.add_row(state.spec.name, f"{state.next_step:,}", str(state.epoch), policy, accuracy, reward)
    return table


def job_view(
    state: JobState, decisions: Sequence[Decision], reports: Sequence[ValidationReport], helping: str | None
) -> RenderableType:
    """What a job is, where it is, how it got there, and whether its policy helps, as far as that can be said."""
    facts = [
        *_of_spec(state.spec),
        *_of_state(state, decisions),
        *_gains(decisions, state.spec.reward.metric),
        *_curves(reports),
        *([] if helping is None else [("", ""), ("is it helping?", helping)]),
    ]
    return _panel(state.spec.name, _facts(facts))


def sample_view(sample: SampleState) -> RenderableType:
    """What is known of a sample."""
    facts: list[tuple[str, str | Text]] = [
        *((name, _of_signal(value)) for name, value in sample.signals.items()),
        ("balance score", f"{_number(sample.balance_score)}, at first {_number(sample.first_score)}"),
        ("times measured", _measured(sample)),
        *([] if sample.evidence is None else _of_sample(sample.evidence)),
        ("drawn", "\n".join(f"step {d.step:,}, probability {d.probability:.3g}" for d in sample.draws) or "–"),
    ]
    return _panel(f"sample {sample.index}", _facts(facts))


def suspects_view(listed: SampleList, state: JobState, names: Sequence[str] | None = None) -> RenderableType:
    """The samples that are the least likely right, and how many there are estimated to be. names: of all samples."""
    if not listed.samples:
        return Text("nothing is known of any sample yet")
    heads = state.spec.heads[:-1]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    what = "pair" if listed.order == "pair" else "label"
    shown = ["sample", *([] if names is None else ["name"]), f"P({what} right)", "label", "likeliest", *heads, "draws"]
    for column in shown:
        table.add_column(column, justify="left" if column == "name" else "right", overflow="fold")
    for row in listed.samples:
        if (known := row.evidence) is not None:
            first = [str(row.index), *([] if names is None else [names[row.index]])]
            right = known.pair if listed.order == "pair" else known.right
            opinions = [str(known.predicted[head]) for head in heads]
            if listed.order == "pair":
                opinions = [f"{known.predicted[head]} ({known.wrong_modality[head]:.0%} wrong)" for head in heads]
            table.add_row(*first, f"{right:.3f}", str(known.label), str(known.likeliest), *opinions, f"{row.draws:,}")
    estimated = _of_evidence(state)
    return Group(table, "", _facts(estimated)) if estimated else table


def decisions_view(log: DecisionLog, metric: Metric) -> RenderableType:
    """A part of the decision log, one decision a row, and how to see the rest. metric: what the rewards are of."""
    if not log.decisions:
        return Text("no decisions yet" if log.total == 0 else f"no decision {log.start:,} yet: there are {log.total:,}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("no.", "steps", "policy", "chose", "propensity", "left out", _gain_title(metric), "reward"):
        words = column in ("policy", "chose")
        table.add_column(column, justify="left" if words else "right", overflow="fold", ratio=1 if words else None)
    for number, row in enumerate(log.decisions, log.start):
        steps = f"{row.first_step:,}–{row.end_step - 1:,}"
        policy = _versioned(row.policy, row.policy_version)
        gain = _gain(row.gain, metric)
        chosen = _choice(row), f"{row.propensity:.3g}", f"{row.left_out:,}"
        table.add_row(f"{number:,}", steps, policy, *chosen, gain, _reward(row.reward))
        if row.shadow is not None:
            table.add_row("", "", Text(f"{row.shadow.policy}, shadow", "dim"), _choice(row.shadow))
    end = log.start + len(log.decisions)
    if len(log.decisions) == log.total:
        return table
    return Group(table, Text(f"decisions {log.start:,} to {end - 1:,} of {log.total:,}; --start shows others", "dim"))


def samples_view(listed: SampleList) -> RenderableType:
    """The first samples in an order, one a row."""
    if not listed.samples:
        return Text("nothing is known of any sample yet")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    judged = any(row.evidence is not None for row in listed.samples)
    for column in ("sample", "loss", "draws", "last measured", *(("P(label right)", "P(pair right)") * judged)):
        table.add_column(column, justify="right")
    for row in listed.samples:
        last = "–" if row.last_measured is None else f"{row.last_measured:,}"
        known = row.evidence
        trust = ("–", "–") if known is None else (f"{known.right:.3f}", f"{known.pair:.3f}")
        table.add_row(f"{row.index}", _number(row.loss), f"{row.draws:,}", last, *(trust * judged))
    return Group(table, Text(f"{len(listed.samples):,} of {listed.known:,} by {listed.order}", "dim"))


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """A curve as blocks, the lowest value as the lowest block; of more than `width` values the last of each part."""
    ends = [(k + 1) * len(values) // width - 1 for k in range(width)] if len(values) > width else range(len(values))
    shown = [values[k] for k in ends]
    low, reach = min(shown, default=0.0), max(shown, default=0.0) - min(shown, default=0.0)
    return "".join(BLOCKS[round((value - low) / reach * (len(BLOCKS) - 1)) if reach else 0] for value in shown)


def policies_view(answer: PolicyList) -> RenderableType:
    """Installed policies with their parameters, then artefacts."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("policy", style="cyan", overflow="fold")
    table.add_column("parameters", overflow="fold", ratio=1)
    for policy in answer.policies:
        shown = Text(policy.error, "red") if policy.error else Text(_defaults(policy.parameters) or "–")
        table.add_row(policy.name, shown)
    artefacts = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    artefacts.add_column("artefact", style="cyan", overflow="fold")
    artefacts.add_column("sha256", no_wrap=True)
    artefacts.add_column("network", overflow="fold", ratio=1)
    for manifest in answer.artefacts:
        artefacts.add_row(manifest.name, manifest.sha256[:HASH_SHOWN], _network(manifest))
    for judge in answer.judges:
        artefacts.add_row(judge.name, judge.sha256[:HASH_SHOWN], "judge of samples, for the policy evidence")
    return Group(table, "", artefacts) if answer.artefacts or answer.judges else table


def artefact_sentence(manifest: ArtefactManifest) -> str:
    """What was uploaded, and how to use it."""
    if isinstance(manifest, JudgeManifest):
        return f"{manifest.name} is stored: bss swap JOB evidence --param judge={manifest.sha256}"
    begun = manifest.sha256[:HASH_SHOWN]
    return f"{manifest.name} is stored as {manifest.sha256}: bss swap JOB --artefact {begun}"


def swap_sentence(job: str, answer: PolicyAnswer) -> str:
    """What became of a swap."""
    outcome = "" if answer.changed else "nothing changed, "
    if answer.shadow:
        named = f"{answer.policy.name} is shadow {answer.policy_version}"
        return f"{job}: {outcome}{named} and watches from step {answer.first_step:,} on"
    version = f"policy version {answer.policy_version}{'' if answer.changed else ' already'}"
    return f"{job}: {outcome}{answer.policy.name} is {version} and draws from step {answer.first_step:,} on"


def look_view(look: WatchView, interval: float) -> RenderableType:
    """What a watcher sees."""
    state = look.state
    rate = "–" if look.steps_per_second is None else f"{look.steps_per_second:,.1f} steps/s"
    outage = [] if look.outage is None else [("service", Text(f"out of reach, asked again: {look.outage}", "red"))]
    facts = _facts([*outage, ("speed", rate), *_of_state(state, look.decisions)])
    newest_first = _decisions(look.decisions[::-1])  # what a small terminal cuts off is the oldest
    return _panel(state.spec.name, Group(facts, "", newest_first), f"every {interval:g} s, Ctrl-C ends")


def _panel(title: str, content: RenderableType, note: str | None = None) -> Panel:
    return Panel(
        content,
        title=Text(title, "bold cyan"),
        subtitle=None if note is None else Text(note, "dim"),
        title_align="left",
        subtitle_align="right",
        border_style="dim",
        padding=(0, 1),
    )


def _facts(rows: Sequence[tuple[str, str | Text]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def _of_spec(spec: JobSpec) -> list[tuple[str, str | Text]]:
    interval = "one epoch" if spec.interval is None else f"{spec.interval:,} steps"
    interval = f"a window of up to {interval}" if spec.stream else interval
    reward = spec.reward
    return [
        ("samples", f"{spec.samples:,} in batches of {spec.batch_size:,}, tail: {spec.tail}, seed {spec.seed}"),
        *_of_growth(spec),
        ("modalities", ", ".join(spec.modalities)),
        *([] if spec.groups is None else [("groups", _groups(spec.group_names))]),
        ("interval", f"{interval}, lag {spec.lag:,}, patience {spec.patience:g} s"),
        ("reward", f"{reward.metric}, balance weight {reward.balance_weight:g}, discount {reward.discount:g}"),
        ("", ""),
    ]


def _groups(names: Sequence[str]) -> str:
    more = f" … {names[-1]}" if len(names) > GROUPS_SHOWN else ""
    return f"{len(names):,}: {', '.join(names[:GROUPS_SHOWN])}{more}"


def _of_growth(spec: JobSpec) -> list[tuple[str, str | Text]]:
    if not spec.earlier:
        return []
    before = spec.earlier[-1]
    return [("", f"{before.samples:,} before epoch {before.until:,}, {spec.earlier[0].samples:,} when it was made")]


def _of_state(state: JobState, decisions: Sequence[Decision]) -> list[tuple[str, str | Text]]:
    pending = state.pending_policy
    return [
        ("step", _position(state)),
        ("epoch", _position_in_epoch(state)),
        ("policy", Text(_policy(state.policy)) + _failure(state, decisions)),
        ("pending", "–" if pending is None else _policy(pending)),
        *([] if state.shadow is None else [("shadow", _shadow(state.shadow))]),
        ("fed back", f"{state.steps_fed_back:,} steps, {state.samples_measured:,} of {state.spec.samples:,} samples"),
        *_of_validation(state.validation),
        *_of_evidence(state),
        *([("groups", "not sent yet")] if state.spec.groups is not None and not state.has_groups else []),
        ("rewards", Text.assemble(_rewards(state.rewards, REWARDS_SHOWN), ("  newest last", "dim"))),
    ]


def _position(state: JobState) -> str:
    horizon = state.spec.horizon
    if horizon is None:
        return f"{state.next_step:,}"
    ahead = f", and {state.next_step - horizon:,} fetched ahead" if state.next_step > horizon else ""
    return f"{min(state.next_step, horizon):,} of {horizon:,}{ahead}"


def _position_in_epoch(state: JobState) -> str:
    steps = state.spec.calendar().epoch_start(state.epoch + 1) - state.epoch_start
    return f"{state.epoch}, {state.next_step - state.epoch_start:,} of its {steps:,} steps handed out"


def _policy(answer: PolicyAnswer) -> str:
    named = _versioned(answer.policy.name, answer.policy_version)
    return f"{named} from step {answer.first_step:,}{_parenthesised(answer.policy.parameters)}"


def _failure(state: JobState, decisions: Sequence[Decision]) -> Text:
    """That the policy in force could not make the latest choice, and why."""
    latest = decisions[-1] if decisions else None
    if latest is None or not latest.failed or latest.policy_version != state.policy.policy_version:
        return Text()
    return Text(f" failed, plain shuffling stands in: {latest.detail['error']}", "red")


def _shadow(answer: PolicyAnswer) -> str:
    parameters = _parenthesised(answer.policy.parameters)
    return f"{answer.policy.name} watches from step {answer.first_step:,}{parameters}"


def _versioned(policy: str, version: int) -> str:
    return f"{policy} v{version}"


def _parenthesised(values: dict[str, Any]) -> str:
    return f" ({_assignments(values)})" if values else ""


def _defaults(parameters: dict[str, Any]) -> str:
    """Names of parameters, with their defaults where they have one."""
    return ", ".join(
        f"{name}={_shown(schema['default'])}" if "default" in schema else name for name, schema in parameters.items()
    )


def _network(manifest: PolicyManifest) -> str:
    network = manifest.network
    layers = f"{network.activation} {'–'.join(map(str, network.hidden))}" if network.hidden else "linear"
    return f"{network.distribution}, {layers}"


def _assignments(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_shown(value)}" for name, value in values.items())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _measured(sample: SampleState) -> str:
    last = "" if sample.last_measured is None else f", last with step {sample.last_measured:,}"
    return f"{sample.times_measured:,}{last}"


def _of_evidence(state: JobState) -> list[tuple[str, str | Text]]:
    """What is estimated of the whole of a job's samples."""
    told = state.evidence
    if told is None:
        return []
    shares = {"wrong labels": told.wrong_labels, "wrong pairs": told.wrong_pairs}
    return [
        *((name, f"about {s.share:.0%} ({s.low:.0%} to {s.high:.0%})") for name, s in shares.items()),
        ("left out", f"{told.left_out:,} samples from step {told.step:,} on"),
        *([("weakest modality", told.weakest_modality)] if told.weakest_modality else []),
    ]


def _of_sample(known: SampleEvidence) -> list[tuple[str, str | Text]]:
    opinions = ", ".join(f"{head} {predicted}" for head, predicted in known.predicted.items())
    wrong = ", ".join(f"{head} {share:.3f}" for head, share in known.wrong_modality.items())
    return [
        ("label", f"{known.label}, right with {known.right:.3f}; {known.likeliest} with {known.rival:.3f}"),
        ("heads say", opinions or "–"),
        ("pair", f"right with {known.pair:.3f}" + (f"; wrong: {wrong}" if wrong else "")),
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _of_signal(value: float | dict[str, float | None] | None) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{head} {_number(of_head)}" for head, of_head in value.items())
    return _number(value)


def _of_validation(report: ValidationReport | None) -> list[tuple[str, str | Text]]:
    if report is None:
        return [("validation", "–"), ("accuracy", "–")]
    heads = [f"{name} {of.accuracy:.3f}" for name, of in report.modalities.items()]
    return [
        ("validation", f"loss {report.loss:.4f} after step {report.step:,}"),
        ("accuracy", ", ".join([f"joint {report.accuracy:.3f}", *heads])),
    ]


def _gain_title(metric: Metric) -> str:
    return "points" if metric == "accuracy" else "loss less"


def _gain(gain: float | None, metric: Metric) -> str:
    """What a decision gained of the metric, as reported: points of accuracy, or by how much the loss fell."""
    if gain is None:
        return "–"
    return f"{100 * gain:+.2f}" if metric == "accuracy" else f"{gain:+.4f}"


def _gains(decisions: Sequence[Decision], metric: Metric) -> list[tuple[str, str | Text]]:
    """What the latest decisions gained, as reported, and the course of their rewards."""
    known = [d for d in decisions if d.gain is not None]
    if not known:
        return []
    unit = "points of accuracy" if metric == "accuracy" else "by which the loss fell"
    gains = "  ".join(_gain(d.gain, metric) for d in known[-REWARDS_SHOWN:])
    rewards = [d.reward for d in known if d.reward is not None]
    return [
        ("gains", Text.assemble(gains, (f"  {unit}, newest last", "dim"))),
        ("", Text.assemble(sparkline(rewards), (f"  the latest {len(rewards)} rewards", "dim"))),
    ]


def _curves(reports: Sequence[ValidationReport]) -> list[tuple[str, str | Text]]:
    """The accuracies of all heads over the run."""
    if len(reports) < 2:
        return []
    heads = {"joint": [r.accuracy for r in reports]}
    for name in reports[-1].modalities:
        heads[name] = [r.modalities[name].accuracy for r in reports if name in r.modalities]
    best = max(reports, key=lambda report: report.accuracy)
    ends = {name: f" {values[0]:.3f} to {values[-1]:.3f}" for name, values in heads.items()}
    ends["joint"] += f", best {best.accuracy:.3f} after step {best.step:,}"
    return [("", ""), *((name, f"{sparkline(values)}{ends[name]}") for name, values in heads.items())]


def _rewards(rewards: Sequence[float | None], count: int) -> Text:
    return Text("  ").join([_reward(reward) for reward in rewards[-count:]] or [Text("–")])


def _reward(reward: float | None) -> Text:
    if reward is None:
        return Text("–")
    return Text(f"{reward:+.3f}", "green" if reward > 0 else "red" if reward < 0 else "")


def _decisions(rows: Sequence[Decision]) -> Table:
    """One decision a row."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("policy", overflow="fold")
    table.add_column("chose", overflow="fold", ratio=1)
    table.add_column("reward", justify="right", no_wrap=True)
    for row in rows:
        policy = _versioned(row.policy, row.policy_version)
        table.add_row(f"{row.first_step:,}–{row.end_step - 1:,}", policy, _choice(row), _reward(row.reward))
        if row.shadow is not None:
            table.add_row("", Text(f"{row.shadow.policy}, shadow", "dim"), _choice(row.shadow), "")
    return table


def _choice(row: Chosen) -> Text:
    """The arm that was pulled, else what sets the action apart from plain shuffling."""
    if "error" in row.detail:
        return Text(f"plain shuffling: {row.detail['error']}", "red")
    if "arm" in row.detail:
        return Text(f"{row.detail['arm']}, probability {row.propensity:.3f}")
    if isinstance(row.detail.get("raw_action"), str):
        return Text(f"{row.detail['raw_action']}, probability {row.propensity:.3f}")
    return Text(in_words(row.action))


_PREFERENCES: Final = {  # of each coefficient of a sample's score: above 0, and below
    "kappa_similarity": ("heads that agree", "heads that disagree"),
    "kappa_loss": ("easy samples", "hard samples"),
    "kappa_weak": ("samples weak in one modality", "samples strong in all modalities"),
    "kappa_stale": ("samples not seen for long", "samples seen lately"),
}


def in_words(action: Action) -> str:
    """What sets an action apart from plain shuffling, but for the rate of its moving averages."""
    said = [
        f"prefers {likes if kappa > 0 else dislikes} ({kappa:+.3g})"
        for name, (likes, dislikes) in _PREFERENCES.items()
        if (kappa := getattr(action, name))
    ]
    if action.coverage != "epoch":
        said += ["with replacement"] if action.coverage == "draw" else []
        said += [f"{action.keep} {action.share:.0%} by {action.rank_by}"] if action.share < 1 else []
    if action.link != "exponential" or action.floor:
        said.append(f"{action.link} weights, floor {action.floor:.3g}")
    if action.belief:
        part = "" if action.left_out == 1 else f"{action.left_out:.0%} of "
        said.append(f"leaves out {part}labels right below {action.belief:.0%}")
        said += {"keep": [], "leave_out": ["such pairs too"], "mask": ["masks such pairs"]}[action.wrong_pairs]
    said += [f"looks at {action.probes:.1%} of what is left out"] if action.probes else []
    said += [f"pull {action.pull:.3g}"] if action.pull else []
    said += [f"balances groups ({action.group_balance:.3g})"] if action.group_balance else []
    mixture = sorted(action.mixture.items(), key=lambda named: -named[1])
    more = ", …" if len(mixture) > GROUPS_SHOWN else ""
    shares = ", ".join(f"{share:.0%} of {name}" for name, share in mixture[:GROUPS_SHOWN])
    said += [f"draws {shares}{more}"] if mixture else []
    return ", ".join(said) or "plain shuffling"
