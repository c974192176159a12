"""A trained policy or judge as numbers: one safetensors file whose manifest says how to run it.

Nothing in it can execute.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pydantic
import pydantic_core
import safetensors.numpy

from bss_service.core.action import ACTION_SCHEMAS, COMPONENTS, NAMED_ACTIONS, Action, needs_of
from bss_service.core.arrays import Float32, Floats
from bss_service.core.evidence import features
from bss_service.core.evidence.posterior import OUTCOMES, Judge
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
from bss_service.core.observation import FIELDS, SCHEMAS
from bss_service.errors import InvalidValueError
from bss_service.protocol import frames
from bss_service.protocol.artefacts import (
    ArtefactManifest,
    BoxAction,
    JudgeManifest,
    PolicyManifest,
    canonical,
    content_hash,
)

FORMAT: Final = "bss-policy/1"
JUDGE_FORMAT: Final = "bss-judge/1"
MAX_BYTES: Final = 16 * 2**20
MAX_HEADER_BYTES: Final = 256 * 2**10  # manifest and table of tensors
MAX_DEPTH: Final = 12  # of the manifest's JSON
LOG_STD_BOUND: Final = 20.0  # of a gaussian policy, either way: within it no density overflows
SOME: Final = {  # by component: those that need signals
    "kappa_similarity": Action(kappa_similarity=1),
    "kappa_loss": Action(kappa_loss=1),
    "kappa_weak": Action(kappa_weak=1),
    "belief": Action(belief=1),
}


class ArtefactError(InvalidValueError):
    """What was offered as an artefact is none, or is one for another observation or action."""

    title = "Invalid artefact"


@dataclass(frozen=True, slots=True, eq=False)
class Artefact:
    """A trained policy that was validated by `read_any`, and the bytes that it was read from."""

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
        if isinstance(action, BoxAction):
            return needs_of(some for name, some in SOME.items() if name in action.fields)
        return needs_of(NAMED_ACTIONS[name] for name in action.names)

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
        observation = observation[..., : SCHEMAS[self.manifest.observation_schema]]
        scale = self.manifest.normaliser
        if scale is None:
            return observation
        mean, variance = self.tensors["normaliser.mean"], self.tensors["normaliser.variance"]
        return normalised(observation, mean, variance, epsilon=scale.epsilon, clip=scale.clip)

    def _layers(self) -> list[tuple[Float32, Float32]]:
        return _read_layers(self.tensors, "layer", len(self.manifest.network.hidden))

    def _head(self, name: str, hidden: np.ndarray) -> Float32:
        return rounded(affine(hidden, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]))


@dataclass(frozen=True, slots=True, eq=False)
class JudgeArtefact:
    """A trained judge that was validated by `read_any`, and the bytes that it was read from."""

    manifest: JudgeManifest
    tensors: Mapping[str, Float32]
    data: bytes

    @property
    def sha256(self) -> str:
        """What it is known by: the hash of its whole content."""
        return self.manifest.sha256

    def judge(self) -> Judge:
        """The networks."""
        hidden = {"label": self.manifest.label, "modality": self.manifest.modality}
        label, modality = (_read_layers(self.tensors, name, len(widths) + 1) for name, widths in hidden.items())
        known = (self.manifest.evaluation or {}).get("calibration_error")
        if isinstance(known, float) and 0 <= known <= 1:
            return Judge(label, modality, known)
        return Judge(label, modality)


AnyArtefact = Artefact | JudgeArtefact
Artefacts = Mapping[str, AnyArtefact]  # by sha256
NO_ARTEFACTS: Final[Artefacts] = MappingProxyType({})


def write(manifest: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> bytes:
    """The artefact's bytes. manifest: all but `sha256`, as JSON values. Raises ArtefactError as `read_any` does."""
    numbers = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
    unsigned = _manifest(json.dumps({**manifest, "sha256": "0" * 64}))
    signed = {**unsigned.model_dump(), "sha256": content_hash(unsigned, numbers)}
    data = safetensors.numpy.save(numbers, {"manifest": canonical(signed)})
    read_any(data)
    return data


def read_any(data: bytes) -> AnyArtefact:
    """The policy or judge of these bytes. Raises ArtefactError naming the field and the value that are wrong."""
    _check_size(data)
    try:
        tensors, strings = frames.unpack(data)
    except frames.FrameError as error:
        raise _wrong("artefact", f"must be a safetensors file: {error}") from None
    if set(strings) != {"manifest"}:
        raise _wrong("metadata", "must hold 'manifest' and nothing else", sorted(strings))
    manifest = _manifest(strings["manifest"])
    if isinstance(manifest, JudgeManifest):
        _check_schema(manifest, "feature_schema", [features.SCHEMA_HASH])
    else:
        _check_purpose(manifest)
    _check_tensors(manifest, tensors)
    computed = content_hash(manifest, tensors)
    if manifest.sha256 != computed:
        raise _wrong("manifest.sha256", f"must be the hash of the content, {computed}", manifest.sha256)
    if isinstance(manifest, JudgeManifest):
        return JudgeArtefact(manifest, tensors, data)
    return Artefact(manifest, tensors, data)


def read(data: bytes) -> Artefact:
    """The policy of these bytes. Raises ArtefactError as `read_any`, or where it is a judge."""
    found = read_any(data)
    if not isinstance(found, Artefact):
        raise _wrong("manifest.format", f"must be {FORMAT}", found.manifest.format)
    return found


def read_judge(data: bytes) -> JudgeArtefact:
    """The judge of these bytes. Raises ArtefactError as `read_any`, or where it is a policy."""
    found = read_any(data)
    if not isinstance(found, JudgeArtefact):
        raise _wrong("manifest.format", f"must be {JUDGE_FORMAT}", found.manifest.format)
    return found


def shapes(manifest: ArtefactManifest) -> dict[str, tuple[int, ...]]:
    """The tensors that an artefact of this manifest has, and their shapes."""
    if isinstance(manifest, JudgeManifest):
        of_sample, of_modality = len(features.FIELDS), len(features.MODALITY_FIELDS)
        return _layers("label", [of_sample, *manifest.label, OUTCOMES]) | _layers(
            "modality", [of_sample + of_modality, *manifest.modality, 1]
        )
    inputs = SCHEMAS.get(manifest.observation_schema, len(FIELDS))
    widths = [inputs, *manifest.network.hidden]
    actions = manifest.action.dimension if isinstance(manifest.action, BoxAction) else len(manifest.action.names)
    expected = _layers("layer", widths)
    match manifest.network.distribution:
        case "gaussian":
            expected |= _dense("mean", widths[-1], actions) | {"log_std": (actions,)}
        case "squashed_gaussian":
            expected |= _dense("mean", widths[-1], actions) | _dense("log_std", widths[-1], actions)
        case "categorical":
            expected |= _dense("logits", widths[-1], actions)
    if manifest.normaliser is not None:
        expected |= {"normaliser.mean": (inputs,), "normaliser.variance": (inputs,)}
    return expected


def _read_layers(tensors: Mapping[str, Float32], name: str, number: int) -> list[tuple[Float32, Float32]]:
    """Weights and biases of the first layers of a network."""
    return [(tensors[f"{name}_{k}.weight"], tensors[f"{name}_{k}.bias"]) for k in range(number)]


def _layers(name: str, widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    expected: dict[str, tuple[int, ...]] = {}
    for k, (inputs, outputs) in enumerate(pairwise(widths)):
        expected |= _dense(f"{name}_{k}", inputs, outputs)
    return expected


def _dense(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _check_size(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise _wrong("artefact", f"must have at most {MAX_BYTES} bytes", len(data))
    header = int.from_bytes(data[:8], "little")  # as safetensors begins
    if header > min(MAX_HEADER_BYTES, len(data)):
        raise _wrong(
            "artefact", f"must be a safetensors file with a header of at most {MAX_HEADER_BYTES} bytes", header
        )


def _manifest(text: str) -> ArtefactManifest:
    try:
        fields = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise _wrong("manifest", f"must be JSON: {error}") from None
    if _depth(fields) > MAX_DEPTH:
        raise _wrong("manifest", f"must be nested at most {MAX_DEPTH} deep", _depth(fields))
    is_judge = isinstance(fields, dict) and fields.get("format") == JUDGE_FORMAT
    try:
        return (JudgeManifest if is_judge else PolicyManifest).model_validate(fields)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(["manifest", *map(str, first["loc"])])
        raise _wrong(name, f"is wrong: {first['msg']}", first["input"]) from None


def _depth(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, items), default=0)


def _check_purpose(manifest: PolicyManifest) -> None:
    """The observation and the action are those of this code, and the distribution is one over such actions."""
    _check_schema(manifest, "observation_schema", list(SCHEMAS))
    _check_schema(manifest, "action_schema", ACTION_SCHEMAS)
    action, distribution = manifest.action, manifest.network.distribution
    if (action.kind == "discrete") != (distribution == "categorical"):
        raise _wrong("manifest.network.distribution", f"must be one over a {action.kind} of actions", distribution)
    if isinstance(action, BoxAction):
        if not set(action.fields) <= set(COMPONENTS) or len(set(action.fields)) < len(action.fields):
            raise _wrong("manifest.action.fields", f"must be some of {list(COMPONENTS)}, each once", action.fields)
        if action.dimension != len(action.fields):
            raise _wrong("manifest.action.dimension", f"must be {len(action.fields)}", action.dimension)
    elif not set(action.names) <= set(NAMED_ACTIONS) or len(set(action.names)) < len(action.names):
        raise _wrong("manifest.action.names", f"must be some of {list(NAMED_ACTIONS)}, each once", action.names)


def _check_schema(manifest: ArtefactManifest, field: str, known: Sequence[str]) -> None:
    if (other := getattr(manifest, field)) not in known:
        rule = f"must be this service's, {known[0]}: it was trained for other {field.removesuffix('_schema')} fields"
        raise _wrong(f"manifest.{field}", rule, other)


def _check_tensors(manifest: ArtefactManifest, tensors: Mapping[str, np.ndarray]) -> None:
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
    if isinstance(manifest, JudgeManifest):
        return
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
