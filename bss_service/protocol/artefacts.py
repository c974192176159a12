"""What a trained policy is, beside its numbers."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from bss_service.protocol.message import NAME_PATTERN, SHA256_PATTERN, Message


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
    hidden: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(max_length=8)]  # width of each layer
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
