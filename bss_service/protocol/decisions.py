"""The decision log: what policies saw and chose, and what came of it."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core.core_schema import FieldSerializationInfo

from bss_service.core.action import Action
from bss_service.core.arrays import Float32
from bss_service.core.observation import FIELDS, Observation
from bss_service.protocol.actions import action_of
from bss_service.protocol.arrays import ArrayType
from bss_service.protocol.message import Message, Step, is_answer, known_fields

VECTORS = ArrayType(np.float32, "fields", -1, 1)


def _observation(value: Any, info: ValidationInfo) -> Observation:
    """An observation by name or as a vector; step and epoch are those of its decision."""
    if isinstance(value, Observation):
        return value
    if not {"first_step", "epoch"} <= set(info.data):
        raise ValueError("needs a first_step and an epoch that are right")
    if isinstance(value, Mapping):
        missing = [name for name in FIELDS if name not in value]
        if missing or (len(value) > len(FIELDS) and not is_answer(info)):
            raise ValueError(f"is of another schema: it lacks {missing[0]}" if missing else "is of another schema")
        value = [value[name] for name in FIELDS]
    vector = VECTORS.validated(value)
    if len(vector) != len(FIELDS):
        raise ValueError(f"must hold {len(FIELDS)} numbers, got {len(vector)}")
    return Observation(vector, info.data["first_step"], info.data["epoch"])


def _action(value: Any, info: ValidationInfo) -> Any:
    return action_of(known_fields(Action, value, info)) if isinstance(value, dict) else value


def _shown(observation: Observation, info: FieldSerializationInfo) -> dict[str, float] | Float32:
    """By name in JSON, as a vector in a frame."""
    if info.mode == "json":
        return dict(zip(FIELDS, observation.vector.tolist(), strict=True))
    return observation.vector


_NUMBERS = {"type": "object", "additionalProperties": {"type": "number"}}
_FIELDS = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "string"}, _NUMBERS]},  # the last of a mixture
}
ObservationField = Annotated[
    Observation, PlainValidator(_observation), PlainSerializer(_shown, return_type=Any), WithJsonSchema(_NUMBERS)
]
ActionField = Annotated[
    Action,
    BeforeValidator(_action),
    PlainSerializer(Action.as_dict, return_type=dict[str, Any]),  # a number may be an int
    WithJsonSchema(_FIELDS),
]


class Chosen(Message):
    """What a policy chose, the probability (or density) with which it was picked, and what it tells of that."""

    model_config = ConfigDict(frozen=True)

    action: ActionField
    propensity: Annotated[float, Field(gt=0)]
    detail: dict[str, JsonValue]

    @property
    def failed(self) -> bool:
        """Whether it stands in for a choice that the policy could not make."""
        return "error" in self.detail


class ShadowChoice(Chosen):
    """What the policy that watched would have done; nothing was drawn by it, and no reward is its own."""

    shadow: int  # number among the job's shadows
    policy: str


class Decision(Chosen):
    """One act of a policy: what it saw, what it chose, what came of it."""

    first_step: Step  # of the plan
    end_step: Step  # first step after the plan, or after the part of it that was used
    epoch: Annotated[int, Field(ge=0, lt=2**63)]
    policy_version: Annotated[int, Field(ge=1, lt=2**63)]
    policy: str
    observation: ObservationField
    learned: Annotated[int, Field(ge=0, lt=2**63)] = 0  # decisions whose reward the policy had taken in before it acted
    gain: Annotated[float, Field(ge=-1e39, le=1e39)] | None = None  # of the validation metric, over the plan
    # A surprise in [−1, 1] or an improvement, plus at most ten times the balance term; null: no report tells.
    reward: Annotated[float, Field(ge=-11, le=1e39)] | None = None
    rewarded_at: Step | None = None  # step of the validation report that tells
    shadow: ShadowChoice | None = None
    left_out: Annotated[int, Field(ge=0, lt=2**40)] = 0  # samples that the plan only looks at, if at all


class DecisionLog(Message):
    """Decisions in order, from number `start` on."""

    start: int
    total: int
    decisions: list[Decision]
