"""Internal: the forms of logits and labels that can be measured, and for each other one what to do.

Types, shapes and dtypes are known without looking at a value, so nothing here makes a device wait.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

INTEGERS: Final = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)  # of labels


def check_logits(unimodal_logits: Sequence[Tensor], joint_logits: Tensor) -> None:
    """Raises TypeError or ValueError unless there are tensors (g, c), floating, c ≥ 2, equal of all heads."""
    _check_head("joint_logits", joint_logits)
    if not isinstance(unimodal_logits, Sequence):
        raise TypeError(
            f"unimodal_logits must be a list of tensors (g, c), one a modality in the job's order, or [], "
            f"got {form_of(unimodal_logits)}"
        )
    for k, logits in enumerate(unimodal_logits):
        _check_head(f"unimodal_logits[{k}]", logits)
        if logits.shape != joint_logits.shape:
            raise ValueError(_unequal(f"unimodal_logits[{k}]", logits, joint_logits))


def check_heads(
    unimodal: Sequence[Tensor], joint: Tensor, form: str, names: str = "unimodal_logits", name: str = "joint_logits"
) -> None:
    """Raises TypeError or ValueError unless all are floating tensors of the joint one's shape.

    form: what that is to be, in words; names, name: of the arguments.
    """
    if not isinstance(joint, Tensor):
        raise TypeError(f"{name} must be one tensor {form}, got {form_of(joint)}")
    if not isinstance(unimodal, Sequence):
        raise TypeError(f"{names} must be a list of tensors {form}, one a modality, or [], got {form_of(unimodal)}")
    for k, head in enumerate([*unimodal, joint]):
        which = f"{names}[{k}]" if k < len(unimodal) else name
        if not isinstance(head, Tensor):
            raise TypeError(f"{which} must be one tensor {form}, got {form_of(head)}")
        if not head.is_floating_point() or head.shape != joint.shape:
            raise ValueError(
                f"{which} must be floating of shape {tuple(joint.shape)}, as all heads are, got {form_of(head)}"
            )


def is_soft(labels: Tensor, joint_logits: Tensor) -> bool:
    """Whether labels are shares (g, c) of the classes."""
    return labels.shape == joint_logits.shape and labels.is_floating_point()


def check_labels(labels: Tensor, joint_logits: Tensor, *, may_be_soft: bool = False) -> None:
    """Raises TypeError or ValueError unless it is a tensor (g,) of integers, where the logits are or on the host.

    may_be_soft: whether it may be shares (g, c) of the classes too.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor (g,), got {form_of(labels)}: give torch.as_tensor(labels)")
    samples, classes = joint_logits.shape
    is_form = labels.shape == (samples,) and labels.dtype in INTEGERS
    if not is_form and not (may_be_soft and is_soft(labels, joint_logits)):
        raise ValueError(
            f"labels must be integers of shape ({samples},), the class of each sample, got {form_of(labels)}: "
            f"{_advice(labels, samples, classes)}"
        )
    if labels.device.type != "cpu" and labels.device != joint_logits.device:
        raise ValueError(
            f"labels must be on the device of the logits, {joint_logits.device}, or on the cpu, got {labels.device}"
        )


def _check_head(name: str, logits: Tensor) -> None:
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name} must be one tensor (g, c), got {form_of(logits)}")
    if logits.ndim != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ValueError(_wrong_head(name, logits))


def _wrong_head(name: str, logits: Tensor) -> str:
    if not logits.is_floating_point():
        return f"{name} must be floating, the logits before any argmax, got {form_of(logits)}"
    if logits.ndim == 1:
        return (
            f"{name} must have shape (g, c), a row of logits a sample, got {form_of(logits)}: for a binary head with "
            "one logit z a sample give two, torch.stack([-z / 2, z / 2], 1)"
        )
    if logits.ndim == 2:
        return (
            f"{name} must have at least 2 classes, got {form_of(logits)}: for a binary head with one logit z a sample "
            "give two, torch.cat([-z / 2, z / 2], 1)"
        )
    return (
        f"{name} must have shape (g, c), one prediction a sample, got {form_of(logits)}: average or choose over the "
        "other axes first"
    )


def _unequal(name: str, logits: Tensor, joint: Tensor) -> str:
    if logits.shape[0] != joint.shape[0]:
        return (
            f"{name} must have a row for each of the {joint.shape[0]} samples of joint_logits, got {form_of(logits)}: "
            "all heads must see the same batch"
        )
    return (
        f"{name} must have the {joint.shape[1]} classes of joint_logits, got {form_of(logits)}: heads are compared "
        "class by class, so let each have a logit for every class"
    )


def _advice(labels: Tensor, samples: int, classes: int) -> str:
    """What to do with labels of another form."""
    if labels.shape == (samples, 1):
        return "labels.squeeze(1)" if labels.dtype in INTEGERS else "labels.squeeze(1).long()"
    if labels.shape == (samples, classes):
        if labels.is_floating_point():
            return "soft labels have no one true class; where the likeliest will do, labels.argmax(1)"
        return (
            "several labels a sample have no one true class, which measure_multilabel is for; where they are one-hot, "
            "labels.int().argmax(1)"
        )
    if labels.shape != (samples,):
        return "give one label for each row of the logits"
    if labels.dtype == torch.bool:
        return "labels.long() makes False class 0 and True class 1"
    return "labels.long(), if they are whole numbers"


def form_of(value: Any) -> str:
    """What was got, as far as it can be told without looking at a value."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"
