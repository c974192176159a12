"""What all messages have in common: strictness, frames, and the scalars that come up again and again."""

from typing import Annotated, Any, Final, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from bss_service.core.table import MAX_STEP
from bss_service.protocol import frames

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"
FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
WIRE: Final = {"wire": True}  # context of a validation that grants nothing but what the interface says
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


class Message(BaseModel):
    """Base of all messages: unknown fields are refused, types are not coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)

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
