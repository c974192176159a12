"""Acting from outside: what is seen, and what is to be done."""

import json
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

from bss_service.core.action import ACTION_SCHEMA_HASH, BEFORE_EVIDENCE, COMPONENTS, DIMENSION, NAMED_ACTIONS, Action
from bss_service.core.arrays import Float32
from bss_service.protocol.arrays import ArrayType
from bss_service.protocol.message import FLOAT32_MAX, FreeJson, Message, OrNewer, Step

MAX_WAIT: Final = 600  # seconds that a request for an observation may be held
LENGTHS: Final = {DIMENSION: COMPONENTS, len(BEFORE_EVIDENCE): BEFORE_EVIDENCE}  # components of a vector, by length
MAX_DETAIL: Final = 4096  # bytes of JSON that may come with an action


def _check_action(value: Any) -> Any:
    """The action as it came, if it is one; raises ValueError whose sentence holds what was wrong."""
    if isinstance(value, list):
        wrong = [v for v in value if type(v) not in (int, float) or not abs(v) <= FLOAT32_MAX]
        if wrong or len(value) not in LENGTHS:
            got = f"{wrong[0]!r:.40}" if wrong else len(value)
            known = f"{DIMENSION} finite numbers, as action schema {ACTION_SCHEMA_HASH[:12]} has them"
            raise ValueError(f"a vector must hold {known}, got {got}")
    elif isinstance(value, str):
        if value not in NAMED_ACTIONS:
            raise ValueError(f"must be one of {', '.join(NAMED_ACTIONS)}, got {value!r}")
    elif isinstance(value, dict):
        action_of(value)
    else:
        raise ValueError(f"must be a vector, a name or the fields of an action, got {type(value).__name__}")
    return value


def action_of(fields: dict[str, Any]) -> Action:
    """The action of some of its fields; raises ValueError naming the one that is wrong."""
    wrong = [name for name, v in fields.items() if type(v) not in (int, float, str) and name != "mixture"]
    if wrong:
        raise ValueError(f"{wrong[0]} must be a number or a choice, got {fields[wrong[0]]!r}")
    try:
        return Action(**fields)
    except TypeError as error:
        raise ValueError(str(error).removeprefix("Action.__init__() ")) from None


def _check_detail(detail: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(detail, allow_nan=False))
    if size > MAX_DETAIL:
        raise ValueError(f"must have at most {MAX_DETAIL} bytes as JSON, got {size}")
    return detail


class ActionRequest(Message):
    """The action for the interval that begins at `first_step`, for a job under the policy `external`.

    action: a vector of DIMENSION numbers, of which those outside [−1, 1] are clipped, or one of the components that
    there were before evidence; the name of an action; or fields of an action, the others as in plain shuffling. What
    weighs groups, `group_balance` and `mixture`, a share by name, is in fields alone.
    propensity: the probability, or density, with which it was picked.
    """

    first_step: Step
    action: Annotated[list[float] | str | dict[str, float | str | dict[str, float]], BeforeValidator(_check_action)]
    propensity: Annotated[float, Field(gt=0, le=FLOAT32_MAX)] = 1.0
    detail: Annotated[FreeJson, AfterValidator(_check_detail)] = {}

    def resolved(self) -> Action:
        """The action itself."""
        if isinstance(self.action, list):
            return Action.from_vector(np.array(self.action), LENGTHS[len(self.action)])
        return NAMED_ACTIONS[self.action] if isinstance(self.action, str) else action_of(self.action)


class ActionAnswer(Message):
    """`replaced`: another action for the interval was known; `repeated`: this very one was, and nothing changed."""

    outcome: Annotated[Literal["applied", "replaced", "repeated"], OrNewer]
    first_step: int
    policy_version: int


class ObservationAnswer(Message):
    """What the policy sees that draws the next interval, as far as is known now.

    Once `awaits_action` is true, the vector is the one that the interval's decision will log.
    """

    first_step: int  # of the interval
    epoch: int
    policy: str
    policy_version: int
    trainer_waiting: bool  # rank 0 has asked for the interval
    action_set: bool
    awaits_action: bool  # the policy is `external`, the trainer waits, its feedback is in, and no action has come
    fields: list[str]
    schema_hash: str
    vector: Annotated[Float32, ArrayType(np.float32, "fields", -1, 1)]
