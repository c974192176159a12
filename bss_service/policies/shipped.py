"""The trained policies and the judge that come with this package."""

from functools import cache
from importlib.resources import files

import safetensors.numpy

from bss_service.core.evidence.partial import PartialJudge
from bss_service.core.evidence.posterior import Judge
from bss_service.policies import artefact
from bss_service.policies.artefact import Artefact, JudgeArtefact


@cache
def shipped_policy() -> Artefact:
    """What the policy `learned` runs without evidence. Raises ArtefactError where it does not fit the code."""
    return artefact.read(_bytes("policy.safetensors"))


@cache
def shipped_acting_policy() -> Artefact:
    """What the policy `learned` runs where there is evidence. Raises ArtefactError as above."""
    return artefact.read(_bytes("acting.safetensors"))


@cache
def shipped_judge() -> JudgeArtefact:
    """Whose evidence a job has unless its policy names another judge. Raises ArtefactError as above."""
    return artefact.read_judge(_bytes("judge.safetensors"))


@cache
def usual_judge() -> Judge:
    """Its networks."""
    return shipped_judge().judge()


@cache
def usual_partial_judge() -> PartialJudge:
    """What reads the evidence of jobs that lack signals of it."""
    numbers = safetensors.numpy.load(_bytes("partial.safetensors"))
    return PartialJudge([(numbers[f"weight_{k}"], numbers[f"bias_{k}"]) for k in range(len(numbers) // 2)])


def _bytes(name: str) -> bytes:
    return files(__package__).joinpath("trained", name).read_bytes()
