"""Leave out the samples whose labels or pairs are probably wrong."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from bss_service.core.action import Action, WrongPairs
from bss_service.core.evidence.posterior import Judge
from bss_service.core.observation import Observation
from bss_service.policies.artefact import JudgeArtefact
from bss_service.policies.base import Choice, Policy
from bss_service.protocol.message import SHA256_PATTERN


class Evidence(Policy):
    """Plain shuffling for `start` epochs, then without what is disbelieved: a larger part of it each epoch of `ramp`.

    It learns nothing while the job runs. What is left out stays measured by probes, and comes back once it is believed.
    Of a job that lacks signals of evidence it reads what there is, the loss at least; wrong pairs and judges of one's
    own need all of them.
    """

    stateless: ClassVar[bool] = True
    partial_evidence: ClassVar[bool] = True

    belief: Annotated[float, Field(gt=0, le=0.95)] = 0.45  # samples that are right with less than this are disbelieved
    start: Annotated[int, Field(ge=1)] = 4  # epochs; evidence is read from how samples are learnt, and takes time
    ramp: Annotated[int, Field(ge=1)] = 3  # epochs
    probes: Annotated[float, Field(ge=0, le=0.5)] = 0.12  # share of the rows
    pull: Annotated[float, Field(ge=0, le=3)] = 1.5  # of trainers that can
    pull_above: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of wrong labels, as estimated; 0: from the beginning
    wrong_pairs: WrongPairs = "keep"
    judge: Annotated[str, Field(pattern=SHA256_PATTERN)] | None = None  # one that was uploaded; null: the package's own

    _judge: Judge | None = PrivateAttr(default=None)

    @field_validator("judge")
    @classmethod
    def _is_known(cls, judge: str | None, info: ValidationInfo) -> str | None:
        if judge is not None and not isinstance(_artefacts(info.context).get(judge), JudgeArtefact):
            raise ValueError("must be the hash of a judge that was uploaded to this service")
        return judge

    def model_post_init(self, context: Any) -> None:
        if self.judge is not None:
            self._judge = _artefacts(context)[self.judge].judge()

    def needs(self) -> Mapping[str, int]:
        return self._action(1.0).needs(partial_evidence=self.judge is None)

    def own_judge(self) -> Judge | None:
        return self._judge

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        is_early = observation.epoch < self.start or not observation["has_evidence"]
        seem_wrong = 0.0 if is_early else 1 - observation["right_labels"]
        pull = self.pull if not self.pull_above or seem_wrong > self.pull_above else 0.0
        if is_early:
            return Choice(Action(pull=pull))
        return Choice(self._action(min(1.0, (observation.epoch - self.start + 1) / self.ramp), pull))

    def _action(self, left_out: float, pull: float = 0.0) -> Action:
        return Action(
            belief=self.belief, left_out=left_out, probes=self.probes, pull=pull, wrong_pairs=self.wrong_pairs
        )


def _artefacts(context: Any) -> Mapping[str, Any]:
    artefacts: Mapping[str, Any] = (context or {}).get("artefacts", {})
    return artefacts
