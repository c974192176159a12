"""What a training step's logits tell of its samples, measured on the device that holds them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from bss_service.core import measurement as formulas
from trainer_client.errors import LabelError
from trainer_client.logits.forms import check_labels, check_logits

# What was measured of the g samples of a batch: by signal a tensor or array (g,), or (g, H) with one value a head.
Measurement = Mapping[str, Tensor | NDArray[Any]]

WRONG_LABEL: Final = 0x7FC0BAD1
"""The bits of a float32 NaN that `measure` puts where a label on a device turns out to be no class.

An infinity would not do: a loss of the user's own may become one. These bits no computation makes. Whoever does not
know them reads NaN, not known, which the value is; and they are copied like any number, so that the host finds them
without a wait. Should something on the way make an ordinary NaN of them, the value stays unknown.
"""


@torch.no_grad()
def measure(
    unimodal_logits: Sequence[Tensor],
    joint_logits: Tensor,
    labels: Tensor,
    *,
    unimodal_weight: float = 0.5,
    joint_weight: float | None = None,
    ignore_index: int = -100,
) -> dict[str, Tensor]:
    """The built-in signals of a batch by name, from the logits that training has computed anyway.

    unimodal_logits: a list of tensors (g, c), one of each modality in the job's order, or [] where there are no
    unimodal heads; joint_logits: (g, c), c ≥ 2; all floating. labels: (g,) of any integer dtype, in [0, c), or
    `ignore_index` where a sample has none. The weights are those of the training loss: by default
    ℓ = (1 − λ)·CE_joint + λ·Σ_j CE_j with λ = unimodal_weight, and CE_joint without unimodal heads.

    Returns `loss` (g,), `probability` (g, H) of the true label by each unimodal head in order and the joint head, with
    two unimodal heads or more `similarity` (g,), and the signals of `bss_service.core.signals.DYNAMICS`, all float32.
    What needs a label is NaN, not known, of a sample that is ignored. The sampler sends what the job declares.
    The formulas are those of `bss_service.core.measurement`. No forward pass, no wait for the device.

    Raises TypeError or ValueError naming an argument of another type, shape or dtype, with what to do; LabelError, a
    ValueError, naming a label on the CPU that is out of range. One on another device is not waited for: its loss and
    probability are NaN, and once feedback is given the sampler's next call raises LabelError with step and sample.
    """
    batch = read(unimodal_logits, joint_logits, labels, ignore_index)
    is_unknown = batch.is_ignored | batch.is_outside
    why = torch.full_like(is_unknown, WRONG_LABEL, dtype=torch.int32).view(torch.float32)
    why = why.masked_fill(batch.is_ignored, torch.nan)
    by_signal = {
        "loss": loss_of(batch.at_label, unimodal_weight, joint_weight),
        "probability": batch.at_label.exp().T,
        "label": batch.labels,
        **formulas.label_and_rival(batch.logs, batch.labels, torch),
    }
    predicted = by_signal.pop("predicted_class").float()  # the one that needs no label
    measured = {name: _marked(values, is_unknown, why) for name, values in by_signal.items()}
    measured["predicted_class"] = predicted
    if len(unimodal_logits) > 1:
        measured["similarity"] = formulas.similarity(batch.logs[:-1].exp(), torch)
    return measured


class Logs(NamedTuple):
    """Of H heads, the joint one last: log-probabilities, in single precision whatever the model computes in."""

    logs: Tensor  # (H, g, c)
    labels: Tensor  # (g,) int64 in [0, c)
    at_label: Tensor  # (H, g), log-probabilities of these; meaningless where one of the following is true
    is_ignored: Tensor  # (g,)
    is_outside: Tensor  # (g,)


def read(unimodal_logits: Sequence[Tensor], joint_logits: Tensor, labels: Tensor, ignore_index: int) -> Logs:
    """Raises what `measure` raises."""
    check_logits(unimodal_logits, joint_logits)
    check_labels(labels, joint_logits)
    classes, device = joint_logits.shape[1], joint_logits.device
    usable, is_ignored, is_outside = formulas.usable_labels(labels.long(), classes, ignore_index, torch)
    if _is_on_host(labels):
        _check_range(labels, is_outside & ~is_ignored, classes, ignore_index)
    logs = formulas.log_softmax(torch.stack([*unimodal_logits, joint_logits]).float(), torch)
    on_device = [part.to(device, non_blocking=True) for part in (usable, is_ignored, is_outside)]
    return Logs(logs, on_device[0], formulas.true_label(logs, on_device[0], torch), *on_device[1:])


def _marked(values: Tensor, is_unknown: Tensor, mark: Tensor) -> Tensor:
    """Values (g,) or (g, H) as float32, with the mark (g,) of why in the rows that are not known."""
    if values.ndim == 2:
        is_unknown, mark = is_unknown[:, None], mark[:, None]
    return torch.where(is_unknown, mark, values.float())


def _is_on_host(labels: Tensor) -> bool:
    """Whether looking at their values waits for no device."""
    return labels.device.type == "cpu"


def _check_range(labels: Tensor, is_wrong: Tensor, classes: int, ignore_index: int) -> None:
    if is_wrong.any():
        row = int(is_wrong.nonzero()[0])
        raise LabelError(
            f"labels must be 0 to {classes - 1}, or ignore_index = {ignore_index} where a sample has none, "
            f"got {int(labels[row])} in row {row}"
        )


def loss_of(at_label: Tensor, unimodal_weight: float, joint_weight: float | None) -> Tensor:
    """(g,) of log-probabilities (H, g)."""
    if joint_weight is None:
        joint_weight = 1 - unimodal_weight if len(at_label) > 1 else 1.0
    loss: Tensor = formulas.total_loss(
        at_label[-1], at_label[:-1], joint_weight=joint_weight, unimodal_weight=unimodal_weight
    )
    return loss
