"""What all messages have in common: version, strictness, frames, and the scalars that come up again and again."""

from collections.abc import Mapping
from dataclasses import fields as fields_of
from typing import Annotated, Any, Final, Self

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from bss_service.core.samples.table import MAX_STEP
from bss_service.protocol import frames

# Up by one when a request means something else than before, or an answer can't be read by who reads this one. What is
# added needs no other number: clients ignore what they don't know of answers, and a request without it means the same.
PROTOCOL: Final = 1
OLDEST_PROTOCOL: Final = 1  # of clients that the service still understands
PROTOCOL_HEADER: Final = "bss-protocol"  # of a request: the number that its client speaks; without it none is checked
INCARNATION_HEADER: Final = "bss-incarnation"  # of a trainer's request: the job that it trains with; may be left out
AT_WORK: Final = "planning"  # `field` of a refusal by a service that is there, and has long work to do first
UNKNOWN_CALL: Final = "path"  # the field of a 404 that says: not a job is missing here, but the call itself

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
INCARNATION_PATTERN: Final = r"^[0-9a-f]{32}$"
SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"
FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
WIRE: Final = {"wire": True}  # context of a validation that grants nothing but what the interface says
ANSWER: Final = {"wire": True, "answer": True}  # … and leaves out what the sender knows and the reader does not
MAX_NESTING: Final = 32  # of free JSON: what is taken in must be readable again from within a snapshot


def _check_nesting(value: Any) -> Any:
    if _is_deeper(value, MAX_NESTING):
        raise ValueError(f"must be nested at most {MAX_NESTING} deep, got more")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return items is not None and (levels == 0 or any(_is_deeper(item, levels - 1) for item in items))


FreeJson = Annotated[dict[str, JsonValue], BeforeValidator(_check_nesting)]
Unit = Annotated[float, Field(ge=0, le=1)]
Loss = Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]  # so that the difference of two is finite
Step = Annotated[int, Field(ge=0, le=MAX_STEP)]


def is_none(value: Any) -> bool:
    """Of a field that is written only where there is something: who has nothing to tell writes what it always did."""
    return value is None


def is_answer(info: ValidationInfo) -> bool:
    """Whether what is validated came from a service, of a newer version perhaps."""
    return bool(info.context == ANSWER)


def known_fields(kind: type, given: Mapping[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """What is given for the fields of a dataclass; of an answer, without fields that it does not have."""
    names = {field.name for field in fields_of(kind)} if is_answer(info) else given
    return {name: value for name, value in given.items() if name in names}


def _newer_word(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    return value if is_answer(info) and isinstance(value, str) else handler(value)


# Of a choice of words that tells what became of a request: in an answer another word is taken as it is. The request is
# done, whatever a newer service calls it, and no reason to end a training run.
OrNewer: Final = WrapValidator(_newer_word)


class Message(BaseModel):
    """Base of all messages: unknown fields are refused, but for those of answers; types are not coerced."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        defer_build=True,  # most are not needed at a start, which has to be short
    )

    def to_frame(self) -> bytes:
        """The message as a frame."""
        return frames.encode(self.model_dump())

    @classmethod
    def from_frame(cls, data: bytes) -> Self:
        """Raises frames.FrameError, or pydantic.ValidationError naming the field."""
        return cls.from_wire(frames.decode(data))

    @classmethod
    def from_wire(cls, fields: Any) -> Self:
        """The message of what JSON or a frame held. Raises pydantic.ValidationError naming the field."""
        return cls.model_validate(fields, context=WIRE)

    @classmethod
    def from_answer(cls, data: bytes, content_type: str) -> Self:
        """What a service answered, without the fields that only a newer one knows, however deep.

        Raises frames.FrameError, or pydantic.ValidationError naming the field.
        """
        if content_type == frames.CONTENT_TYPE:
            return cls.model_validate(frames.decode(data), extra="ignore", context=ANSWER)
        return cls.model_validate_json(data, extra="ignore", context=ANSWER)
