"""What a trained policy or judge is, beside its numbers."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, JsonValue, TypeAdapter

from bss_service.protocol.message import NAME_PATTERN, SHA256_PATTERN, Message

Widths = Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(max_length=8)]  # of the hidden layers


class BoxAction(Message):
    """The action as a vector; `fields` names its components in order."""

    kind: Literal["box"]
    dimension: Annotated[int, Field(ge=1, le=1000)]
    fields: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=1000)]


class DiscreteAction(Message):
    """One of the named actions; logit k is that of `names[k]`."""

    kind: Literal["discrete"]
    names: Annotated[list[Annotated[str, Field(max_length=100)]], Field(min_length=1, max_length=1000)]


class NetworkSpec(Message):
    """A multi-layer perceptron and the distribution that its last layer parametrises."""

    activation: Literal["tanh", "relu"]
    hidden: Widths
    distribution: Literal["gaussian", "squashed_gaussian", "categorical"]


class NormaliserSpec(Message):
    """How observations are scaled first: clip((o − mean)/√(variance + epsilon), ±clip)."""

    clip: Annotated[float, Field(gt=0, le=1e6)]
    epsilon: Annotated[float, Field(gt=0, le=1)]


class PolicyManifest(Message):
    """What an artefact, a trained policy as numbers, is; its numbers stand beside it.

    sha256: over all other fields, as JSON with sorted keys and without spaces, and over the tensors.
    """

    format: Literal["bss-policy/1"]
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    observation_schema: Annotated[str, Field(pattern=SHA256_PATTERN)]  # core.observation.SCHEMA_HASH
    action_schema: Annotated[str, Field(pattern=SHA256_PATTERN)]  # core.action.ACTION_SCHEMA_HASH
    action: Annotated[BoxAction | DiscreteAction, Field(discriminator="kind")]
    network: NetworkSpec
    normaliser: NormaliserSpec | None = None
    training: dict[str, JsonValue] = {}  # the command, tasks and seeds
    evaluation: dict[str, JsonValue] | None = None  # figures
    sha256: Annotated[str, Field(pattern=SHA256_PATTERN)]


class JudgeManifest(Message):
    """What a judge, trained networks that read evidence of samples, is; its numbers stand beside it.

    sha256: as of a policy.
    """

    format: Literal["bss-judge/1"]
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    feature_schema: Annotated[str, Field(pattern=SHA256_PATTERN)]  # core.evidence.features.SCHEMA_HASH
    label: Widths  # of the network that judges labels
    modality: Widths  # of the one that judges the part of each modality
    training: dict[str, JsonValue] = {}  # the command, tasks and seeds
    evaluation: dict[str, JsonValue] | None = None  # figures
    sha256: Annotated[str, Field(pattern=SHA256_PATTERN)]


ArtefactManifest = Annotated[PolicyManifest | JudgeManifest, Field(discriminator="format")]
MANIFESTS: Final[TypeAdapter[ArtefactManifest]] = TypeAdapter(ArtefactManifest)


def content_hash(manifest: ArtefactManifest, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the manifest but for its hash, and names, dtypes, shapes and bytes of the tensors, sorted by name.

    The manifest is part of it: the same numbers under another activation are another policy.
    """
    digest = hashlib.sha256(canonical(manifest.model_dump(exclude={"sha256"})).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype.str} {list(tensor.shape)}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def canonical(fields: Mapping[str, Any]) -> str:
    """JSON with sorted keys and without spaces."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
