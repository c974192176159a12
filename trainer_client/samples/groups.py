"""Internal: the groups of samples as a user has them, and as a job declares and takes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bss_service.core.arrays import Int64, UInt16
from bss_service.core.samples.groups import MAX_GROUPS
from bss_service.protocol.jobs import JobSpec

GroupsOf = Sequence[int] | Sequence[str] | Int64 | Tensor


def declared(spec: JobSpec, groups: GroupsOf) -> tuple[JobSpec, UInt16]:
    """A job's spec that declares the groups of its samples, and their numbers (n,).

    groups: whole numbers from 0 on, (n,), or as many names. What the spec declares already stays: then names are those
    of it. Raises ValueError or TypeError saying what is wrong.
    """
    given = np.asarray(groups.cpu() if isinstance(groups, Tensor) else groups)
    if given.shape != (spec.samples,):
        raise ValueError(f"groups must be one of each of the {spec.samples} samples, got shape {given.shape}")
    if given.dtype.kind in "UO":
        return _of_names(spec, given.astype(str))
    if given.dtype.kind not in "iu":
        raise TypeError(f"groups must be whole numbers or names, got {given.dtype}")
    known = spec.groups is not None
    count = len(spec.group_names) if known else int(given.max()) + 1
    if given.min() < 0 or given.max() >= min(count, MAX_GROUPS):
        raise ValueError(f"groups must lie in [0, {min(count, MAX_GROUPS) - 1}], got {given.min()} to {given.max()}")
    return (spec if known else spec.model_copy(update={"groups": count})), given.astype(np.uint16)


def _of_names(spec: JobSpec, given: Any) -> tuple[JobSpec, UInt16]:
    names, numbers = np.unique(given, return_inverse=True)
    if spec.groups is None:
        spec = JobSpec(**(spec.model_dump() | {"groups": names.tolist()}))
    unknown = sorted(set(names.tolist()) - set(spec.group_names))
    if unknown:
        raise ValueError(f"groups must be of {', '.join(spec.group_names[:20])}, got {unknown[0]!r}")
    place = np.array([spec.group_names.index(name) for name in names.tolist()], dtype=np.uint16)
    return spec, place[numbers]
