"""The action of a policy, its vector form, and the weights that it gives to samples."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, get_args

import numpy as np

from bss_service.core.arrays import Float32, Float64, Floats, Int64
from bss_service.core.samples.dynamics import NEEDED
from bss_service.core.samples.groups import Groups
from bss_service.core.samples.scores import minmax
from bss_service.core.samples.table import SampleTable

Link = Literal["exponential", "linear"]
Coverage = Literal["epoch", "subset", "draw"]
RankBy = Literal["balance", "first_balance", "loss", "weight"]
Keep = Literal["top", "bottom"]
WrongPairs = Literal["keep", "leave_out", "mask"]

RANGES: Final[dict[str, tuple[float, float]]] = {
    "kappa_similarity": (-6.0, 6.0),
    "kappa_loss": (-12.0, 12.0),
    "kappa_weak": (-6.0, 6.0),
    "kappa_stale": (-6.0, 6.0),
    "share": (0.001, 1.0),
    "floor": (0.0, 1.0),
    "ema": (0.0, 1.0),
    "belief": (0.0, 1.0),
    "left_out": (0.0, 1.0),
    "probes": (0.0, 0.5),
    "pull": (0.0, 3.0),
}
CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "link": get_args(Link),
    "coverage": get_args(Coverage),
    "rank_by": get_args(RankBy),
    "keep": get_args(Keep),
    "wrong_pairs": get_args(WrongPairs),
}
COMPONENTS: Final = (*RANGES, *CHOICES)  # of an action's vector, in order
DIMENSION: Final = len(COMPONENTS)
_LATER: Final = ("belief", "left_out", "probes", "pull", "wrong_pairs")
BEFORE_EVIDENCE: Final = tuple(name for name in COMPONENTS if name not in _LATER)  # what vectors held then, in order
GROUPS: Final = "groups"  # what an action needs that weighs them
GROUP: Final = "the group "  # … and, with its name behind, one of them
MAX_MIXED: Final = 256  # groups that a mixture names: it stands in every decision


@dataclass(frozen=True, slots=True)
class Action:
    """How the next plan uses the sample table. Every scheduler served here is a point or a path in this space.

    A sample's score is κ_sim·similarity − κ_loss·loss + κ_weak·weakness + κ_stale·staleness, of normalised features;
    `link` turns scores into weights, `floor` is added to each weight (exponential weights have mean 1 first).
    `share` keeps that part of the samples, from the top or bottom of the ranking `rank_by` (not under `epoch`, which
    uses every sample). `ema` is the rate at which new measurements enter the moving averages; 0: not this time.

    By evidence (core/evidence): a sample whose label is right with a probability below `belief` is disbelieved, and
    left out of the plan with a probability of `left_out`, under any coverage; the others take its place. `wrong_pairs`
    says what becomes of those with a modality that belongs to them with a probability below `belief`: nothing, they are
    left out too, or the losses of that modality's head and of the joint head are masked. `probes` is the share of the
    rows that look at samples left out, without training on them, so that they can come back. `pull` is how strongly a
    trainer that can is to draw its heads towards what they said of a sample before (trainer_client.Pull).

    By group, where a job has groups: `group_balance` β makes a group of samples whose weights sum to W come in
    proportion to W^(1 − β); 0: as the data are, 1: each as often as any other. `mixture` says the share of groups by
    name, ahead of that; the others have the rest. Under `epoch` that is the order alone, since every sample comes once.
    These two are no components of a vector.

    Raises ValueError naming the field where a value lies outside its range.
    """

    kappa_similarity: float = 0.0
    kappa_loss: float = 0.0
    kappa_weak: float = 0.0
    kappa_stale: float = 0.0
    share: float = 1.0
    floor: float = 0.0
    ema: float = 0.6  # β of the paper
    link: Link = "exponential"
    coverage: Coverage = "epoch"
    rank_by: RankBy = "balance"
    keep: Keep = "top"
    belief: float = 0.0  # nothing is below it
    left_out: float = 1.0
    probes: float = 0.0
    pull: float = 0.0
    wrong_pairs: WrongPairs = "keep"
    group_balance: float = 0.0
    mixture: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not 0 <= self.group_balance <= 1:
            raise ValueError(f"group_balance must lie in [0, 1], got {self.group_balance!r}")
        _check_mixture(self.mixture)
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value!r}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")

    def to_vector(self) -> Float32:
        """The action as (DIMENSION,) float32 in [−1, 1]: ranges linearly, choices at the middle of equal bins."""
        scaled = [2 * (getattr(self, name) - low) / (high - low) - 1 for name, (low, high) in RANGES.items()]
        chosen = [(2 * choices.index(getattr(self, name)) + 1) / len(choices) - 1 for name, choices in CHOICES.items()]
        return np.array(scaled + chosen, dtype=np.float32)

    @classmethod
    def from_vector(cls, vector: Floats, components: Sequence[str] = COMPONENTS) -> "Action":
        """The inverse of `to_vector`; components outside [−1, 1] are clipped. Raises ValueError on NaN or shape.

        components: what the vector holds, if not all; the others are as by default.
        """
        if np.shape(vector) != (len(components),):
            raise ValueError(f"an action vector has shape ({len(components)},), got {np.shape(vector)}")
        if np.isnan(vector).any():
            raise ValueError(f"an action vector must not hold NaN, got {vector}")
        unit = (np.clip(np.asarray(vector, dtype=np.float64), -1, 1) + 1) / 2
        values = {name: _component(name, float(u)) for name, u in zip(components, unit, strict=True)}
        return cls(**values)  # type: ignore[arg-type]

    def needs(self, *, partial_evidence: bool = False) -> dict[str, int]:
        """The signals without which it can't be drawn by, and of how many unimodal heads at least.

        partial_evidence: whether it makes do with what evidence the loss gives, which says nothing of pairs.
        """
        needed = {name: 0 for name in ("similarity", "loss") if getattr(self, f"kappa_{name}")}
        if self.kappa_weak:
            needed["probability"] = 2
        if self.coverage != "epoch" and self.share < 1 and self.rank_by != "weight":
            needed |= dict.fromkeys(("loss",) if self.rank_by == "loss" else ("similarity", "loss"), 0)
        if self.belief:
            read = ("loss",) if partial_evidence and self.wrong_pairs == "keep" else NEEDED
            needed = dict.fromkeys(read, 0) | needed  # which may need more heads
        if self.weighs_groups:
            needed |= dict.fromkeys((GROUPS, *(GROUP + repr(name) for name in self.mixture)), 0)
        return needed

    def without(self, lacking: Iterable[str]) -> "Action":
        """What is left of it where signals are lacking, as `needs` names them; the loss must be there."""
        names = {name.split()[0] for name in lacking}  # of so many heads
        ranks = self.rank_by in ("balance", "first_balance") and "similarity" in names
        return replace(
            self,
            kappa_similarity=0.0 if "similarity" in names else self.kappa_similarity,
            kappa_weak=0.0 if "probability" in names else self.kappa_weak,
            rank_by="loss" if ranks else self.rank_by,
            wrong_pairs="keep",  # of which the loss says nothing
        )

    @property
    def weighs_groups(self) -> bool:
        """Whether groups are to come otherwise than as the weights of their samples have it."""
        return self.group_balance > 0 or len(self.mixture) > 0

    def unweighted(self) -> "Action":
        """The action for a trainer that can't weigh its losses: no probes, and pairs left out rather than masked."""
        return replace(self, probes=0.0, wrong_pairs="keep" if self.wrong_pairs == "keep" else "leave_out")

    def as_dict(self) -> dict[str, Any]:
        """The fields by name; what weighs groups where it does."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value or name not in ("group_balance", "mixture")}


def _check_mixture(mixture: Mapping[str, float]) -> None:
    if not isinstance(mixture, Mapping) or len(mixture) > MAX_MIXED:
        raise ValueError(f"mixture must be the shares of at most {MAX_MIXED} groups by name, got {mixture!r:.80}")
    for name, share in mixture.items():
        if not isinstance(name, str) or type(share) not in (int, float) or not 0 <= share <= 1:
            raise ValueError(f"mixture must hold shares in [0, 1] by name, got {share!r:.40} of {name!r:.40}")
    if not sum(mixture.values()) <= 1 + 1e-6:
        raise ValueError(f"mixture must have a sum of at most 1, got {sum(mixture.values()):g}")


def _component(name: str, unit: float) -> float | str:
    """The value of a component of which `unit`, in [0, 1], is that in the vector."""
    if name in RANGES:
        low, high = RANGES[name]
        return low + unit * (high - low)
    choices = CHOICES[name]
    return choices[min(int(unit * len(choices)), len(choices) - 1)]


def needs_of(actions: Iterable[Action]) -> dict[str, int]:
    """The signals that any of the actions needs, of as many heads as the one that needs most."""
    needed: dict[str, int] = {}
    for action in actions:
        needed |= {name: max(heads, needed.get(name, 0)) for name, heads in action.needs().items()}
    return needed


NAMED_ACTIONS: Final[Mapping[str, Action]] = {
    "uniform": Action(),
    "balance": Action(kappa_similarity=1, kappa_loss=1, coverage="draw"),  # the paper's BSS-L
    "agreement": Action(kappa_similarity=4, kappa_loss=2, coverage="draw"),
    "low_loss": Action(kappa_loss=10, coverage="draw"),
    "hard": Action(kappa_loss=-2, coverage="draw"),
    "anti": Action(kappa_similarity=-1, kappa_loss=-1, coverage="draw"),
    "evidence": Action(belief=0.5, probes=0.12),
    "evidence_pull": Action(belief=0.5, probes=0.12, pull=1.5),
}


# A policy trained on vectors or names of actions means nothing where these mean something else.
ACTION_SCHEMA_HASH: Final = hashlib.sha256(
    json.dumps([RANGES, CHOICES, {name: action.as_dict() for name, action in NAMED_ACTIONS.items()}]).encode()
).hexdigest()
# That a policy may have been trained on. An artefact names the components that it sets; those that there were before
# evidence are what they were.
ACTION_SCHEMAS: Final = (ACTION_SCHEMA_HASH, "e78e46521e473fff683a5fed26aba38af22e9a3a7b95f67cdca60a06ec8c5590")


def admitted(action: Action, table: SampleTable) -> Int64:
    """The samples that a `subset` or `draw` plan may use, (k,) ascending, k = ⌊n·share⌋ and at least 1.

    Ties go to the lower index; a sample without a score ranks at the mean of the others. Without any score, or
    with weights that are all the same, there is no ranking and every sample is admitted.
    """
    everything = np.arange(len(table), dtype=np.int64)
    kept = max(1, int(len(table) * action.share + 1e-9))
    if kept >= len(table):
        return everything
    rank = _rank(action, table)
    if np.isnan(rank).all() or (action.rank_by == "weight" and rank.min() == rank.max()):
        return everything
    filled = _filled(rank)
    order = np.argsort(-filled if action.keep == "top" else filled, kind="stable")
    return np.sort(order[:kept]).astype(np.int64)


def _rank(action: Action, table: SampleTable) -> Floats:
    if action.rank_by == "weight":
        return log_weights(action, table)
    if action.rank_by == "first_balance":
        return table.first_score
    return table.score if action.rank_by == "balance" else -table.latest["loss"]


def log_weights(action: Action, table: SampleTable) -> Float64:
    """Logarithms of the sampling weights, (n,) float64, −inf for a weight of 0.

    Logarithms keep the order of samples right where the weights themselves would underflow. The weights are uniform
    when every one of them would be 0.
    """
    scores = _scores(action, table)
    if action.link == "linear":
        weights = np.maximum(0.0, 1 + scores) + action.floor
        return logarithms(weights) if weights.any() else np.zeros(len(table))
    scores -= scores.max()
    if action.floor == 0:
        return scores
    weights = np.exp(scores)
    return logarithms(weights / weights.mean() + action.floor)


def mixed(action: Action, groups: Groups | None, weights_log: Float64) -> Float64:
    """Weights (k,), logarithms, as the action weighs the groups of these samples; as they are where it does not."""
    if groups is None or not action.weighs_groups:
        return weights_log
    return groups.mixed(weights_log, action.group_balance, action.mixture)


def _scores(action: Action, table: SampleTable) -> Float64:
    scores = np.zeros(len(table))
    if action.kappa_similarity:
        scores += action.kappa_similarity * _filled(table.average["similarity"])
    if action.kappa_loss:
        scores -= action.kappa_loss * _filled(table.average["loss"])
    if action.kappa_weak:
        scores += action.kappa_weak * _weakness(table)
    if action.kappa_stale:
        scores += action.kappa_stale * _staleness(table)
    return scores


def _weakness(table: SampleTable) -> Float64:
    """By how much the weakest head lags behind the others on each sample, (n,) in [−1, 1]."""
    weakest = table.weakest_head()
    if weakest is None:
        return np.zeros(len(table))
    heads = table.latest["probability"][:, :-1].astype(np.float64)
    others = np.delete(heads, weakest, axis=1).mean(axis=1)
    return _filled(others - heads[:, weakest])


def _staleness(table: SampleTable) -> Float64:
    """How long ago each sample was measured, scaled to [0, 1]; never measured counts as longest."""
    if not table.measured.any():
        return np.zeros(len(table))
    age = -np.where(table.measured, table.last_step.astype(np.float64), np.nan)
    return np.where(table.measured, minmax(age), 1.0)


def _filled(feature: Floats) -> Float64:
    """A feature with its mean in place of NaN: a sample not yet scored is neither preferred nor avoided."""
    filled: Float64 = feature.astype(np.float64)
    unknown = np.isnan(filled)
    filled[unknown] = 0.0 if unknown.all() else filled[~unknown].mean()
    return filled


def logarithms(weights: Float64) -> Float64:
    """Of weights (k,) ≥ 0; −inf of 0."""
    logs = np.full(len(weights), -np.inf)
    np.log(weights, out=logs, where=weights > 0)
    return logs
