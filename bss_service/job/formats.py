"""What earlier versions wrote, as this one writes it.

Version 1 of feedback and measuring passes had an array for each of the three signals that there were, and a mask of the
samples that were measured at all. Versions 1 and 2 of snapshots had those too, and classes of their own for decisions
and reports. Up to version 3 a ledger had a flag for each step.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bss_service.core.arrays import Float32
from bss_service.protocol.jobs import JobSpec

Fields = Mapping[str, Any]
_FRESH: Final = np.uint32(2**31)  # top bit of a stamp


def feedback_of_version_1(fields: Fields, spec: JobSpec) -> dict[str, Any]:
    """The fields of a journal entry."""
    feedback = fields["feedback"]
    values = _joined(feedback, len(spec.heads))
    if feedback["measured"] is not None:
        values[~feedback["measured"]] = np.nan
    step = feedback["step"].astype(np.int64)
    return {"rank": fields["rank"], "world_size": fields["world_size"], "step": step, "values": values}


def scores_of_version_1(fields: Fields, spec: JobSpec) -> dict[str, Any]:
    """The fields of a journal entry, and of what a snapshot holds of a measuring pass."""
    return {"indices": fields["indices"], "values": _joined(fields, len(spec.heads))}


def snapshot_of_version_2(fields: Fields) -> dict[str, Any]:
    """The fields of a snapshot of version 3. Raises KeyError, TypeError, AttributeError or ValueError for no such."""
    spec = JobSpec.model_validate(fields["spec"])
    return {
        **fields,
        "format": 3,
        "table": _table(fields["table"]),
        "decisions": [_decision(d, fields) for d in fields["decisions"]],
        "reports": [_report(report, spec.modalities) for report in fields["reports"]],
        "ledger": {**fields["ledger"], "waiting": _waiting(fields["ledger"]["waiting"], len(spec.heads))},
        "passes": [scores_of_version_1(scores, spec) for scores in fields["passes"]],
    }


def snapshot_of_version_3(fields: Fields) -> dict[str, Any]:
    """The same of one that has a flag for each step instead of runs."""
    complete = np.concatenate([[False], fields["ledger"]["complete"], [False]]).astype(np.int8)
    runs = np.flatnonzero(np.diff(complete)).reshape(-1, 2)
    return {**fields, "format": 4, "ledger": {**fields["ledger"], "complete": runs}}


def _joined(arrays: Fields, heads: int) -> Float32:
    """similarity (…), loss (…) and probabilities (…, H), which may be missing, side by side: (…, 2 + H)."""
    similarity, loss, probabilities = arrays["similarity"], arrays["loss"], arrays["probabilities"]
    if probabilities is None:
        probabilities = np.full((*loss.shape, heads), np.nan, dtype=np.float32)
    return np.concatenate([similarity[..., None], loss[..., None], probabilities], axis=-1).astype(np.float32)


def _table(columns: Fields) -> dict[str, Any]:
    stamp = columns["stamp"].astype(np.uint32)
    steps = (stamp & ~_FRESH) + np.uint32(1) | stamp & _FRESH
    return {
        "latest": {
            "similarity": columns["similarity"],
            "loss": columns["loss"],
            "probability": columns["probabilities"],
        },
        "average": {"similarity": columns["similarity_ema"], "loss": columns["loss_ema"]},
        "unknown": {},
        "first_score": columns["first_score"],
        "times_measured": columns["times_measured"],
        "stamp": np.where(np.isnan(columns["similarity"]), np.uint32(0), steps),
    }


def _decision(decision: Fields, snapshot: Fields) -> dict[str, Any]:
    version = snapshot["versions"][decision["policy_version"] - 1]
    shadow = decision.get("shadow")
    if shadow is not None:
        policy = snapshot["shadows"][shadow["number"] - 1]["policy"]["name"]
        shadow = {name: value for name, value in shadow.items() if name != "number"}
        shadow |= {"shadow": decision["shadow"]["number"], "policy": policy}
    return {**decision, "policy": version["policy"]["name"], "shadow": shadow}


def _report(report: Fields, modalities: list[str]) -> dict[str, Any]:
    heads = zip(modalities, report["accuracies"], report["probabilities"], strict=True)
    return {
        "step": report["step"],
        "loss": report["loss"],
        "accuracy": report["accuracy"],
        "modalities": {name: {"accuracy": a, "probability": p} for name, a, p in heads},
    }


def _waiting(waiting: Any, heads: int) -> dict[str, Any]:
    """Version 1 has a list with one object for each step and rank."""
    if not isinstance(waiting, list):
        position = {name: waiting[name] for name in ("step", "row", "rows", "indices")}
        return {**position, "values": _joined(waiting, heads)}
    values = [_joined(one, heads) for one in waiting]
    return {
        "step": np.array([one["step"] for one in waiting], np.int64),
        "row": np.array([one["row"] for one in waiting], np.int64),
        "rows": np.array([len(one["indices"]) for one in waiting], np.int64),
        "indices": np.concatenate([np.empty(0, np.int64), *(one["indices"] for one in waiting)]),
        "values": np.concatenate([np.empty((0, 2 + heads), np.float32), *values]),
    }
