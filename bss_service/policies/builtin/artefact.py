"""A trained policy that was uploaded as an artefact."""

import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from bss_service.core.action import NAMED_ACTIONS, Action
from bss_service.core.network import Categorical
from bss_service.core.observation import Observation
from bss_service.policies.artefact import Artefact
from bss_service.policies.base import Choice, Policy
from bss_service.protocol.message import SHA256_PATTERN
from bss_service.protocol.policies import PolicySpec

ARTEFACT: Final = "artefact"
PARAMETERS: Final = {ARTEFACT: "sha256", "evidence": "judge"}  # by policy: what names an artefact
_LOG_LARGEST: Final = float(np.log(sys.float_info.max)) - 1


class ArtefactPolicy(Policy):
    """Draw actions from the distribution that a trained network gives, or take its likeliest one.

    The propensity is the probability of the action drawn, or the density of its vector before clipping, which may
    exceed 1; the detail of the decision holds that vector, `raw_action`, and the exact `log_probability`.
    """

    stateless: ClassVar[bool] = True

    sha256: Annotated[str, Field(pattern=SHA256_PATTERN)]  # of an artefact that was uploaded to the service
    deterministic: bool = False

    _artefact: Artefact = PrivateAttr()

    @field_validator("sha256")
    @classmethod
    def _is_known(cls, sha256: str, info: ValidationInfo) -> str:
        if not isinstance((info.context or {}).get("artefacts", {}).get(sha256), Artefact):
            raise ValueError("must be the hash of a trained policy that was uploaded to this service")
        return sha256

    def model_post_init(self, context: Any) -> None:
        self._artefact = context["artefacts"][self.sha256]

    def needs(self) -> Mapping[str, int]:
        return self._artefact.needs()

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return choose(self._artefact, observation, None if self.deterministic else rng)


def named(policies: Iterable[PolicySpec]) -> set[str]:
    """The hashes of the artefacts that policies name."""
    hashes = [spec.parameters.get(PARAMETERS[spec.name]) for spec in policies if spec.name in PARAMETERS]
    return {sha256 for sha256 in hashes if isinstance(sha256, str)}


def choose(artefact: Artefact, observation: Observation, rng: np.random.Generator | None) -> Choice:
    """An action drawn from the artefact's distribution; without a generator its mode, with certainty."""
    distribution = artefact.distribution(observation.vector)
    picked, log_probability = (distribution.mode(), 0.0) if rng is None else distribution.draw(rng)
    if isinstance(distribution, Categorical):
        raw: Any = artefact.manifest.action.names[picked]  # type: ignore[union-attr]
        action = NAMED_ACTIONS[raw]
    else:
        raw = picked.tolist()  # type: ignore[union-attr]
        action = Action.from_vector(picked, artefact.manifest.action.fields)  # type: ignore[union-attr, arg-type]
    detail = {
        "artefact": artefact.sha256,
        "deterministic": rng is None,
        "raw_action": raw,
        "log_probability": _rounded(float(log_probability)),
    }
    return Choice(action, _rounded(float(np.exp(np.clip(log_probability, -_LOG_LARGEST, _LOG_LARGEST)))), detail)


def _rounded(value: float) -> float:
    """Seven digits: the last ones depend on the processor, and a choice must be the same on all."""
    return float(f"{value:.7g}")
