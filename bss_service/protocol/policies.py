"""Policies that a job can have, and their swaps."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, JsonValue, model_validator

from bss_service.protocol.artefacts import JudgeManifest, PolicyManifest
from bss_service.protocol.message import FreeJson, Message

MAX_VERSIONS: Final = 10_000  # policies, and shadows, that a job may have had


class PolicySpec(Message):
    """A policy by name."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    parameters: FreeJson = {}


class SwapRequest(Message):
    """Another policy for the job.

    `now`: from the first step not yet handed out, the rest of the interval drawn anew from what has not come in the
    epoch; `next_interval`: from the first step of the next interval to be drawn.

    shadow: it draws nothing. From the next plan on it acts beside the policy in force on the same observations, and
    what it would have done stands in the decision log; it never gets a reward. A later one takes its place.
    """

    policy: PolicySpec
    at: Literal["now", "next_interval"] = "next_interval"
    shadow: bool = False

    @model_validator(mode="after")
    def _a_shadow_waits(self) -> Self:
        if self.shadow and self.at == "now":
            raise ValueError("at must be 'next_interval' for a shadow, which draws nothing anew, got 'now'")
        return self


class PolicyAnswer(Message):
    """A job's policy and the first step that it draws. `changed` is false where a swap asked for what already is.

    Of a shadow, `policy_version` is its number among the job's shadows.
    """

    policy: PolicySpec
    policy_version: int
    first_step: int
    changed: bool = False
    shadow: bool = False


class PolicyRow(Message):
    """A policy that is installed; of one that can't be loaded, why."""

    name: str
    description: str = ""
    parameters: dict[str, JsonValue] = {}  # JSON Schema
    error: str | None = None


class PolicyList(Message):
    """What a job's policy can be: installed policies by name, and artefacts, which `artefact` runs, by name."""

    policies: list[PolicyRow]
    artefacts: list[PolicyManifest]
    judges: list[JudgeManifest] = []  # that the policy `evidence` may read by
