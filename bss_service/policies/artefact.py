"""A trained policy as numbers: one safetensors file whose manifest says how to run it. Nothing in it can execute."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pydantic
import pydantic_core
import safetensors.numpy

from bss_service.core.action import ACTION_SCHEMA_HASH, CHOICES, DIMENSION, NAMED_ACTIONS, RANGES, Action, needs_of
from bss_service.core.arrays import Float32, Floats
from bss_service.core.network import (
    SQUASHED_LOG_STD,
    Categorical,
    Distribution,
    Gaussian,
    SquashedGaussian,
    affine,
    forward,
    normalised,
    rounded,
)
from bss_service.core.observation import FIELDS, SCHEMA_HASH
from bss_service.errors import InvalidValueError
from bss_service.protocol import frames
from bss_service.protocol.artefacts import BoxAction, PolicyManifest

FORMAT: Final = "bss-policy/1"
MAX_BYTES: Final = 16 * 2**20
MAX_HEADER_BYTES: Final = 256 * 2**10  # manifest and table of tensors
MAX_DEPTH: Final = 12  # of the manifest's JSON
LOG_STD_BOUND: Final = 20.0  # of a gaussian policy, either way: within it no density overflows
ACTION_FIELDS: Final = (*RANGES, *CHOICES)  # of the action's vector, in order
ANY: Final = Action(kappa_similarity=1, kappa_loss=1, kappa_weak=1)  # as far as signals go


class ArtefactError(InvalidValueError):
    """What was offered as an artefact is none, or is one for another observation or action."""

    title = "Invalid artefact"


@dataclass(frozen=True, slots=True, eq=False)
class Artefact:
    """A trained policy that was validated by `read`, and the bytes that it was read from."""

    manifest: PolicyManifest
    tensors: Mapping[str, Float32]
    data: bytes

    @property
    def sha256(self) -> str:
        """What it is known by: the hash of its whole content."""
        return self.manifest.sha256

    def needs(self) -> Mapping[str, int]:
        """The signals that a job must have for it: those of any action that it may choose."""
        action = self.manifest.action
        chosen = [ANY] if isinstance(action, BoxAction) else [NAMED_ACTIONS[name] for name in action.names]
        return needs_of(chosen)

    def distribution(self, observation: Floats) -> Distribution:
        """The distribution over actions, for observations (…, D). Raises ValueError where the network overflows."""
        hidden = forward(self._normalised(observation), self._layers(), self.manifest.network.activation)
        if self.manifest.network.distribution == "categorical":
            return Categorical(self._head("logits", hidden))
        mean = self._head("mean", hidden)
        if self.manifest.network.distribution == "gaussian":
            return Gaussian(mean, self.tensors["log_std"])
        return SquashedGaussian(Gaussian(mean, np.clip(self._head("log_std", hidden), *SQUASHED_LOG_STD)))

    def _normalised(self, observation: Floats) -> Floats:
        scale = self.manifest.normaliser
        if scale is None:
            return observation
        mean, variance = self.tensors["normaliser.mean"], self.tensors["normaliser.variance"]
        return normalised(observation, mean, variance, epsilon=scale.epsilon, clip=scale.clip)

    def _layers(self) -> list[tuple[Float32, Float32]]:
        layers = range(len(self.manifest.network.hidden))
        return [(self.tensors[f"layer_{k}.weight"], self.tensors[f"layer_{k}.bias"]) for k in layers]

    def _head(self, name: str, hidden: np.ndarray) -> Float32:
        return rounded(affine(hidden, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]))


Artefacts = Mapping[str, Artefact]  # by sha256
NO_ARTEFACTS: Final[Artefacts] = MappingProxyType({})


def write(manifest: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> bytes:
    """The artefact's bytes. manifest: all but `sha256`, as JSON values. Raises ArtefactError as `read` does."""
    numbers = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
    unsigned = _manifest(json.dumps({**manifest, "sha256": "0" * 64}))
    signed = {**unsigned.model_dump(), "sha256": content_hash(unsigned, numbers)}
    data = safetensors.numpy.save(numbers, {"manifest": _canonical(signed)})
    read(data)
    return data


def read(data: bytes) -> Artefact:
    """The artefact of these bytes. Raises ArtefactError naming the field and the value that are wrong."""
    _check_size(data)
    try:
        tensors, strings = frames.unpack(data)
    except frames.FrameError as error:
        raise _wrong("artefact", f"must be a safetensors file: {error}") from None
    if set(strings) != {"manifest"}:
        raise _wrong("metadata", "must hold 'manifest' and nothing else", sorted(strings))
    manifest = _manifest(strings["manifest"])
    _check_purpose(manifest)
    _check_tensors(manifest, tensors)
    computed = content_hash(manifest, tensors)
    if manifest.sha256 != computed:
        raise _wrong("manifest.sha256", f"must be the hash of the content, {computed}", manifest.sha256)
    return Artefact(manifest, tensors, data)


def content_hash(manifest: PolicyManifest, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the manifest but for its hash, and names, dtypes, shapes and bytes of the tensors, sorted by name.

    The manifest is part of it: the same numbers under another activation are another policy.
    """
    digest = hashlib.sha256(_canonical(manifest.model_dump(exclude={"sha256"})).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype.str} {list(tensor.shape)}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def shapes(manifest: PolicyManifest) -> dict[str, tuple[int, ...]]:
    """The tensors that an artefact of this manifest has, and their shapes."""
    widths = [len(FIELDS), *manifest.network.hidden]
    actions = manifest.action.dimension if isinstance(manifest.action, BoxAction) else len(manifest.action.names)
    expected: dict[str, tuple[int, ...]] = {}
    for k, (inputs, outputs) in enumerate(pairwise(widths)):
        expected |= _dense(f"layer_{k}", inputs, outputs)
    match manifest.network.distribution:
        case "gaussian":
            expected |= _dense("mean", widths[-1], actions) | {"log_std": (actions,)}
        case "squashed_gaussian":
            expected |= _dense("mean", widths[-1], actions) | _dense("log_std", widths[-1], actions)
        case "categorical":
            expected |= _dense("logits", widths[-1], actions)
    if manifest.normaliser is not None:
        expected |= {"normaliser.mean": (len(FIELDS),), "normaliser.variance": (len(FIELDS),)}
    return expected


def _dense(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _canonical(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _check_size(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise _wrong("artefact", f"must have at most {MAX_BYTES} bytes", len(data))
    header = int.from_bytes(data[:8], "little")  # as safetensors begins
    if header > min(MAX_HEADER_BYTES, len(data)):
        raise _wrong(
            "artefact", f"must be a safetensors file with a header of at most {MAX_HEADER_BYTES} bytes", header
        )


def _manifest(text: str) -> PolicyManifest:
    try:
        fields = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise _wrong("manifest", f"must be JSON: {error}") from None
    if _depth(fields) > MAX_DEPTH:
        raise _wrong("manifest", f"must be nested at most {MAX_DEPTH} deep", _depth(fields))
    try:
        return PolicyManifest.model_validate(fields)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(["manifest", *map(str, first["loc"])])
        raise _wrong(name, f"is wrong: {first['msg']}", first["input"]) from None


def _depth(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, items), default=0)


def _check_purpose(manifest: PolicyManifest) -> None:
    """The observation and the action are those of this code, and the distribution is one over such actions."""
    for field, own in (("observation_schema", SCHEMA_HASH), ("action_schema", ACTION_SCHEMA_HASH)):
        if (other := getattr(manifest, field)) != own:
            what = field.removesuffix("_schema")
            raise _wrong(
                f"manifest.{field}", f"must be this service's, {own}: it was trained for other {what} fields", other
            )
    action, distribution = manifest.action, manifest.network.distribution
    if (action.kind == "discrete") != (distribution == "categorical"):
        raise _wrong("manifest.network.distribution", f"must be one over a {action.kind} of actions", distribution)
    if isinstance(action, BoxAction):
        if action.dimension != DIMENSION:
            raise _wrong("manifest.action.dimension", f"must be {DIMENSION}", action.dimension)
        if tuple(action.fields) != ACTION_FIELDS:
            raise _wrong("manifest.action.fields", f"must be {list(ACTION_FIELDS)}", action.fields)
    elif not set(action.names) <= set(NAMED_ACTIONS) or len(set(action.names)) < len(action.names):
        raise _wrong("manifest.action.names", f"must be some of {list(NAMED_ACTIONS)}, each once", action.names)


def _check_tensors(manifest: PolicyManifest, tensors: Mapping[str, np.ndarray]) -> None:
    expected = shapes(manifest)
    if set(tensors) != set(expected):
        raise _wrong("tensors", f"must be {sorted(expected)}", sorted(tensors))
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.dtype != np.float32:
            raise _wrong(f"tensors.{name}", "must hold float32", str(tensor.dtype))
        if tensor.shape != shape:
            raise _wrong(f"tensors.{name}", f"must have shape {shape}", tensor.shape)
        if not np.isfinite(tensor).all():
            raise _wrong(f"tensors.{name}", "must hold finite numbers", float(tensor[~np.isfinite(tensor)][0]))
    if manifest.normaliser is not None and (least := float(tensors["normaliser.variance"].min())) < 0:
        raise _wrong("tensors.normaliser.variance", "must be at least 0", least)
    if (
        manifest.network.distribution == "gaussian"
        and (most := float(np.abs(tensors["log_std"]).max())) > LOG_STD_BOUND
    ):
        raise _wrong("tensors.log_std", f"must lie in [{-LOG_STD_BOUND:g}, {LOG_STD_BOUND:g}]", most)


def _wrong(name: str, rule: str, value: Any = None) -> ArtefactError:
    shown = "" if value is None else f", got {_shortened(value)}"
    return ArtefactError(f"{name} {rule}{shown}", field=name, value=value)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
