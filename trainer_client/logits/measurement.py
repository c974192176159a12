"""What a training step's logits tell of its samples, measured on the device that holds them."""

from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bss_service.core import measurement as formulas
from bss_service.core.measurement import Array
from bss_service.core.signals import DYNAMICS, PREDICTED_CLASS
from trainer_client.errors import LabelError
from trainer_client.logits.forms import check_labels, check_logits, is_soft

# What was measured of the g samples of a batch: by signal a tensor or array (g,), or (g, H) with one value a head.
Measurement = Mapping[str, Tensor | NDArray[Any]]

FEW: Final = 2**15  # numbers on the host that NumPy, whose calls take less, is done with before torch
SHARES_ROUNDING: Final = 1e-2  # that the sum of a soft label may leave 1 by, in half precision

WRONG_LABEL: Final = 0x7FC0BAD1
"""The bits of a float32 NaN that `measure` puts where a label on a device turns out to be no class.

An infinity would not do: a loss of the user's own may become one. These bits no computation makes. Whoever does not
know them reads NaN, not known, which the value is; and they are copied like any number, so that the host finds them
without a wait. Should something on the way make an ordinary NaN of them, the value stays unknown.
"""


class Measured(UserDict[str, Tensor]):
    """What was measured of a batch by signal: a dict of which some values are computed once they are asked for.

    So a job that does not declare them does not pay for them.
    """

    data: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        value = self.data[name]
        if callable(value):
            computed = value()
            self.data.update({other: computed[other] for other, later in self.data.items() if later is value})
        measured: Tensor = self.data[name]
        return measured


@torch.no_grad()
def measure(
    unimodal_logits: Sequence[Tensor],
    joint_logits: Tensor,
    labels: Tensor,
    *,
    unimodal_weight: float = 0.5,
    joint_weight: float | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Measured:
    """The built-in signals of a batch by name, from the logits that a classifier's training has computed anyway.

    unimodal_logits: a list of tensors (g, c), one of each modality in the job's order, or [] where there are no
    unimodal heads; joint_logits: (g, c), c ≥ 2; all floating. labels: (g,) of any integer dtype, in [0, c), or
    `ignore_index` where a sample has none; or soft labels (g, c), floating, each row of sum 1, or of NaN where a sample
    has none. The weights and label_smoothing, in [0, 1], are those of the training loss: by default
    ℓ = (1 − λ)·CE_joint + λ·Σ_j CE_j with λ = unimodal_weight, and CE_joint without unimodal heads.

    Returns `loss` (g,), `probability` (g, H) of the true label by each unimodal head in order and the joint head, with
    two unimodal heads or more `similarity` (g,), and the signals of `bss_service.core.signals.DYNAMICS`, all float32.
    What needs a label is NaN, not known, of a sample that is ignored. The sampler sends what the job declares.
    Soft labels have no one true class: `probability` is then the mean over the label's shares, and of `DYNAMICS` there
    is `predicted_class` alone, so that nothing can be read of wrong labels.
    Those of `DYNAMICS` are computed once they are looked at, as feedback does where the job declares them.
    The formulas are those of `bss_service.core.measurement`. No forward pass, no wait for the device.

    Raises TypeError or ValueError naming an argument of another type, shape or dtype, with what to do; LabelError, a
    ValueError, naming a label on the CPU that is out of range. One on another device is not waited for: its loss and
    probability are NaN, and once feedback is given the sampler's next call raises LabelError with step and sample.
    """
    batch = read(unimodal_logits, joint_logits, labels, ignore_index, label_smoothing, xp=np)
    xp = batch.xp
    with np.errstate(all="ignore"):  # a model may diverge
        by_signal = {
            "loss": loss_of(batch.at_target, unimodal_weight, joint_weight),
            "probability": xp.exp(batch.at_label).T,
        }
        known: dict[str, Any] = _marked_in(by_signal, batch.unknown)
        if len(unimodal_logits) > 1:
            known["similarity"] = _tensor(formulas.similarity(xp.exp(batch.logs[:-1]), xp))
    later: Callable[[], dict[str, Tensor]] = partial(_by_class, batch)
    signals = (PREDICTED_CLASS,) if batch.labels is None else DYNAMICS
    measured = Measured()
    measured.data = known | {signal.name: later for signal in signals}
    return measured


@torch.no_grad()
def _by_class(batch: "Logs") -> dict[str, Tensor]:
    """What can be told of classes: of soft labels, the likeliest alone."""
    if batch.labels is None:
        return {"predicted_class": batch.logs.argmax(-1).T.float()}
    with np.errstate(all="ignore"):
        by_signal = {"label": batch.labels, **formulas.label_and_rival(batch.logs, batch.labels, batch.xp)}
    predicted = _tensor(by_signal.pop("predicted_class")).float()  # the one that needs no label
    return {"predicted_class": predicted, **_marked_in(by_signal, batch.unknown)}


def _marked_in(by_signal: Mapping[str, Tensor], unknown: "Unknown | None") -> dict[str, Tensor]:
    if unknown is None:
        return {name: _tensor(values).float() for name, values in by_signal.items()}
    return marked(by_signal, unknown.either, unknown.is_ignored)


def _tensor(values: Array) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(values)


def marked(by_signal: Mapping[str, Tensor], is_unknown: Tensor, is_ignored: Tensor) -> dict[str, Tensor]:
    """Values (g,) or (g, H) as float32, with the mark of why in the rows that are not known.

    is_unknown, is_ignored: (g,), whether a sample's values are not known, and whether that is meant; else its label is
    wrong.
    """
    why = torch.full_like(is_unknown, WRONG_LABEL, dtype=torch.int32).view(torch.float32)
    why = why.masked_fill(is_ignored, torch.nan)
    return {name: _marked(values, is_unknown, why) for name, values in by_signal.items()}


class Unknown(NamedTuple):
    """Which samples have no usable label, (g,) each."""

    is_ignored: Tensor
    is_outside: Tensor

    @property
    def either(self) -> Tensor:
        """Whether it is for one reason or the other, (g,)."""
        return self.is_ignored | self.is_outside


class Logs(NamedTuple):
    """Of H heads, the joint one last: log-probabilities, in single precision whatever the model computes in.

    All are tensors, or all arrays.
    """

    logs: Array  # (H, g, c)
    labels: Array | None  # (g,) int64 in [0, c); None: they are soft
    at_label: Array  # (H, g), log-probabilities of these; meaningless where the label is unknown
    at_target: Array  # (H, g), less the cross-entropy of each head: the same unless labels are soft or smoothed
    unknown: Unknown | None  # None: every label was seen to be known

    @property
    def xp(self) -> ModuleType:
        """Whose they are."""
        return torch if isinstance(self.logs, Tensor) else np


def read(
    unimodal_logits: Sequence[Tensor],
    joint_logits: Tensor,
    labels: Tensor,
    ignore_index: int,
    label_smoothing: float = 0.0,
    xp: ModuleType = torch,
) -> Logs:
    """xp: NumPy, where arrays will do that have no gradient. Raises what `measure` raises."""
    check_logits(unimodal_logits, joint_logits)
    check_labels(labels, joint_logits, may_be_soft=True)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be at least 0 and at most 1, got {label_smoothing}")
    logs = formulas.log_softmax(torch.stack([*unimodal_logits, joint_logits]).float(), torch)
    known = _by_shares(logs, labels) if is_soft(labels, joint_logits) else _by_label(logs, labels, ignore_index, xp)
    if label_smoothing:
        known = known._replace(at_target=formulas.smoothed(known.at_target, logs, label_smoothing))
    return known


def _by_label(logs: Tensor, labels: Tensor, ignore_index: int, xp: ModuleType) -> Logs:
    classes, device = logs.shape[-1], logs.device
    if _is_on_host(labels) and _are_classes(labels, classes, ignore_index):
        usable = labels.to(device, torch.int64, non_blocking=True, copy=True)  # the loop may use its tensor again
        if xp is np and _is_on_host(logs) and logs.numel() <= FEW:
            at_label = formulas.true_label(logs.numpy(), usable.numpy(), np)
            return Logs(logs.numpy(), usable.numpy(), at_label, at_label, None)
        at_label = formulas.true_label(logs, usable, torch)
        return Logs(logs, usable, at_label, at_label, None)
    usable, is_ignored, is_outside = formulas.usable_labels(labels.long(), classes, ignore_index, torch)
    if _is_on_host(labels):
        _check_range(labels, is_outside & ~is_ignored, classes, ignore_index)
    usable, *unknown = (part.to(device, non_blocking=True) for part in (usable, is_ignored, is_outside))
    at_label = formulas.true_label(logs, usable, torch)
    return Logs(logs, usable, at_label, at_label, Unknown(*unknown))


def _are_classes(labels: Tensor, classes: int, ignore_index: int) -> bool:
    """Whether labels on the host are all known, as they mostly are: then there is nothing to mark."""
    if not len(labels) or 0 <= ignore_index < classes:
        return False
    least, most = labels.aminmax()
    return int(least) >= 0 and int(most) < classes


def _by_shares(logs: Tensor, labels: Tensor) -> Logs:
    shares = labels.float()
    is_ignored = shares.isnan().any(1)
    is_outside = ~is_ignored & ((shares < 0).any(1) | ((shares.sum(1) - 1).abs() > SHARES_ROUNDING))
    if _is_on_host(labels) and is_outside.any():
        row = int(is_outside.nonzero()[0])
        raise LabelError(
            f"labels must be rows of shares of sum 1, or of NaN where a sample has none, got "
            f"{labels[row].tolist()[:8]} in row {row}"
        )
    shares = shares.masked_fill((is_ignored | is_outside)[:, None], 0.0).to(logs.device, non_blocking=True)
    is_ignored, is_outside = (part.to(logs.device, non_blocking=True) for part in (is_ignored, is_outside))
    at_label = (logs.exp() * shares).sum(-1).log()
    at_target = formulas.target_log_probability(logs, shares, torch)
    return Logs(logs, None, at_label, at_target, Unknown(is_ignored, is_outside))


def _marked(values: Tensor, is_unknown: Tensor, mark: Tensor) -> Tensor:
    """Values (g,) or (g, H) as float32, with the mark (g,) of why in the rows that are not known."""
    if values.ndim == 2:
        is_unknown, mark = is_unknown[:, None], mark[:, None]
    return torch.where(is_unknown, mark, values.float())


def _is_on_host(values: Tensor) -> bool:
    """Whether looking at them waits for no device."""
    return values.device.type == "cpu"


def _check_range(labels: Tensor, is_wrong: Tensor, classes: int, ignore_index: int) -> None:
    if is_wrong.any():
        row = int(is_wrong.nonzero()[0])
        raise LabelError(
            f"labels must be 0 to {classes - 1}, or ignore_index = {ignore_index} where a sample has none, "
            f"got {int(labels[row])} in row {row}"
        )


def loss_of(at_label: Array, unimodal_weight: float, joint_weight: float | None) -> Any:
    """(g,) of log-probabilities (H, g)."""
    if joint_weight is None:
        joint_weight = 1 - unimodal_weight if len(at_label) > 1 else 1.0
    return formulas.total_loss(at_label[-1], at_label[:-1], joint_weight=joint_weight, unimodal_weight=unimodal_weight)
