"""The trained policies and the judge that come with this package."""

from functools import cache
from importlib.resources import files

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


def _bytes(name: str) -> bytes:
    return files(__package__).joinpath("trained", name).read_bytes()
