"""The decision log."""

from pydantic import JsonValue

from bss_service.protocol.message import Message


class ShadowRow(Message):
    """What the policy that watched would have done; nothing was drawn by it, and no reward is its own."""

    shadow: int  # number among the job's shadows
    policy: str
    action: dict[str, float | str]
    propensity: float
    detail: dict[str, JsonValue]


class DecisionRow(Message):
    """One act of a policy: what it saw, what it chose, what came of it."""

    first_step: int
    end_step: int
    epoch: int
    policy_version: int
    policy: str
    observation: dict[str, float]
    action: dict[str, float | str]
    propensity: float
    detail: dict[str, JsonValue]
    gain: float | None
    reward: float | None
    shadow: ShadowRow | None = None


class DecisionLog(Message):
    """Decisions in order, from number `start` on."""

    start: int
    total: int
    decisions: list[DecisionRow]
