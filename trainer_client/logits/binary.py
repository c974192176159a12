"""What is measured of binary heads: one logit a sample, or one for each of several labels that may go together."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from bss_service.core import measurement as formulas
from trainer_client.errors import LabelError
from trainer_client.logits.forms import check_heads, form_of
from trainer_client.logits.measurement import Measured, loss_of, marked, measure

NO_CLASS: Final = 2.0  # what a label between 0 and 1 stands for, on a device, where nobody waits to see it


def measure_binary(
    unimodal_logits: Sequence[Tensor],
    joint_logits: Tensor,
    labels: Tensor,
    *,
    unimodal_weight: float = 0.5,
    joint_weight: float | None = None,
    ignore_index: int = -100,
) -> Measured:
    """All that `measure` gives, of heads with one logit z a sample: log p/(1 − p) of class 1.

    unimodal_logits, joint_logits: (g,) or (g, 1), floating; labels: (g,) or (g, 1), 0 or 1 in any dtype, or
    `ignore_index`. The losses are binary cross-entropies; the rest is as for `measure`, and so are the errors.
    """
    check_heads(unimodal_logits, joint_logits, "(g,) or (g, 1)")
    if joint_logits.shape not in ((len(joint_logits),), (len(joint_logits), 1)):
        raise ValueError(f"joint_logits must have shape (g,) or (g, 1), got {form_of(joint_logits)}")
    if not isinstance(labels, Tensor) or labels.shape not in ((len(joint_logits),), (len(joint_logits), 1)):
        raise ValueError(f"labels must be a tensor ({len(joint_logits)},) of 0 and 1, got {form_of(labels)}")
    if labels.is_floating_point():
        if labels.device.type == "cpu" and (labels != labels.round()).any():
            raise ValueError("labels must be 0 or 1, got shares: give measure_multilabel, which takes them")
        labels = labels.where(labels == labels.round(), NO_CLASS)
    *unimodal, joint = (formulas.two_logits(z.reshape(-1), torch) for z in [*unimodal_logits, joint_logits])
    return measure(
        unimodal,
        joint,
        labels.reshape(-1).long(),
        unimodal_weight=unimodal_weight,
        joint_weight=joint_weight,
        ignore_index=ignore_index,
    )


@torch.no_grad()
def measure_multilabel(
    unimodal_logits: Sequence[Tensor],
    joint_logits: Tensor,
    labels: Tensor,
    *,
    unimodal_weight: float = 0.5,
    joint_weight: float | None = None,
    ignore_index: int = -100,
) -> dict[str, Tensor]:
    """`loss`, `probability` and, of two unimodal heads or more, `similarity`, of L labels that may go together.

    unimodal_logits, joint_logits: (g, L), floating, a logit for each label; labels: (g, L), 0, 1 or a share between,
    in any dtype, or `ignore_index` where it is not known. Each number is the mean over the labels of a sample that are
    known: the loss of binary cross-entropies, the probability (g, H) of those of what the labels say, the similarity
    of all labels' cosines. The weights are as for `measure`.

    There are no single classes to be wrong or right, so that nothing can be read of wrong labels. Raises TypeError or
    ValueError naming an argument of another form; LabelError as `measure` does.
    """
    check_heads(unimodal_logits, joint_logits, "(g, L)")
    if joint_logits.ndim != 2 or not isinstance(labels, Tensor) or labels.shape != joint_logits.shape:
        raise ValueError(
            f"labels must be a tensor (g, L) like joint_logits, {form_of(joint_logits)}, got {form_of(labels)}"
        )
    is_ignored, shares = labels == ignore_index, labels.float()
    is_outside = ~is_ignored & ~((shares >= 0) & (shares <= 1))
    if labels.device.type == "cpu" and is_outside.any():
        row, column = is_outside.nonzero()[0].tolist()
        raise LabelError(
            f"labels must be 0 to 1, or ignore_index = {ignore_index}, got {labels[row, column].item():g} in row {row}"
        )
    parts = (~(is_ignored | is_outside), is_outside.any(1), shares)
    is_known, is_wrong, shares = (part.to(joint_logits.device, non_blocking=True) for part in parts)
    logits = formulas.two_logits(torch.stack([*unimodal_logits, joint_logits]).float(), torch)
    logs = formulas.log_softmax(logits, torch)  # (H, g, L, 2)
    shares = torch.stack([1 - shares, shares], -1).masked_fill(~is_known[..., None], 0.0)
    at_target = formulas.known_mean(formulas.target_log_probability(logs, shares, torch), is_known, torch)
    probability = formulas.known_mean((logs.exp() * shares).sum(-1), is_known, torch)
    by_signal = {"loss": loss_of(at_target, unimodal_weight, joint_weight), "probability": probability.T}
    measured = marked(by_signal, is_wrong | ~is_known.any(1), ~is_wrong)
    if len(unimodal_logits) > 1:
        cosines = formulas.similarity(logs[:-1].exp().flatten(1, 2), torch)
        measured["similarity"] = cosines.reshape(joint_logits.shape).mean(1)
    return measured
