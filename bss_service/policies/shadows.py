"""The policies that watch a job: each acts beside the live one on the same observations, and draws nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from bss_service.core.observation import Observation
from bss_service.errors import InvalidValueError, NotReproducibleError
from bss_service.policies.artefact import AnyArtefact
from bss_service.policies.base import Choice, Policy
from bss_service.policies.versions import (
    PolicyVersion,
    Remembered,
    brought_back,
    consult,
    failed,
    is_same,
    known_of,
    make_policy,
    stream,
    to_ask_again,
)
from bss_service.protocol.decisions import Decision, ShadowChoice
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec

_STREAM: Final = 2**63 + 2**62  # keys of shadows' random generators, apart from those of policies and plans

Watched = Callable[[int], Sequence[Decision]]  # by number of a shadow


@dataclass(slots=True)
class Shadows:
    """All shadows of a job in order, numbered from 1; the last one watches until it is ended.

    A shadow never learns: rewards tell of what was drawn, and nothing was drawn by it. Whatever goes wrong with one
    stands in the decision log and nowhere else.
    """

    job: JobSpec
    artefacts: dict[str, AnyArtefact]  # those that the policies name
    versions: list[PolicyVersion] = field(default_factory=list)
    watching: bool = False
    remembered: Remembered | None = None
    _live: tuple[int, Policy | Exception] | None = field(default=None, init=False)  # or why there is none

    @property
    def current(self) -> PolicyVersion | None:
        """The shadow that watches."""
        return self.versions[-1] if self.watching else None

    def put(self, spec: PolicySpec, first_step: int) -> PolicyVersion:
        """Let another policy watch from a step on, in place of the one that does."""
        self.versions.append(PolicyVersion(len(self.versions) + 1, spec, first_step))
        self.watching = True
        return self.versions[-1]

    def end(self) -> None:
        """Let none watch."""
        self.watching = False

    def watch(self, observation: Observation, watched: Watched) -> ShadowChoice | None:
        """What the shadow would do, if there is one. watched: gives the decisions that a shadow has watched."""
        shadow = self.current
        if shadow is None:
            return None
        seen = watched(shadow.version)
        policy = self._ready(shadow, seen)
        choice = failed(policy) if isinstance(policy, Exception) else self._act(policy, shadow, len(seen), observation)
        return ShadowChoice(shadow=shadow.version, policy=shadow.spec.name, **choice.fields())

    def remember(self, watched: Watched) -> Remembered | None:
        """The state of the shadow."""
        shadow = self.current
        if shadow is None:
            return None
        if self._live is None or self._live[0] != shadow.version:
            return known_of(self.remembered, shadow.version)
        policy = self._live[1]
        return (
            None
            if isinstance(policy, Exception)
            else Remembered.of(shadow.version, policy, len(watched(shadow.version)))
        )

    def restore(self, watched: Watched) -> None:
        """Bring the shadow to the state in which it acted last. Where that fails, it says so from then on."""
        if self.current is not None:
            self._ready(self.current, watched(self.current.version))

    def _ready(self, shadow: PolicyVersion, seen: Sequence[Decision]) -> Policy | Exception:
        """The shadow's policy; or what went wrong with it, which is found out once and not at each plan."""
        if self._live is None or self._live[0] != shadow.version:
            try:
                self._live = (shadow.version, self._restored(shadow, seen))
            except Exception as error:  # of a package that this one knows nothing about
                self._live = (shadow.version, error)
        return self._live[1]

    def _restored(self, shadow: PolicyVersion, seen: Sequence[Decision]) -> Policy:
        """The shadow's policy in the state in which it acted last; raises NotReproducibleError if it acts otherwise."""
        policy, acts, _ = brought_back(
            lambda: make_policy(shadow.spec, self.artefacts), self.remembered, shadow, len(seen)
        )
        for number, decision in to_ask_again(policy, seen, acts):
            again = self._act(policy, shadow, number, decision.observation)
            if decision.shadow is None or not is_same(again, decision.shadow):
                raise NotReproducibleError(
                    f"shadow {shadow.spec.name!r} chose otherwise when asked again about step {decision.first_step}"
                )
        return policy

    def _act(self, policy: Policy, shadow: PolicyVersion, number: int, observation: Observation) -> Choice:
        own = replace(observation, vector=observation.vector.copy())  # whatever it does to it, the live one's stays
        return consult(policy, self.job, stream(self.job.seed, _STREAM + shadow.version, number), own)


def check_shadow(policy: Policy, spec: PolicySpec, job: JobSpec) -> None:
    """Raises InvalidValueError for a policy that does not act by itself, or that would see no evidence.

    Partial evidence is read for the policy in force alone: another's observations must not change by who watches.
    """
    if policy.waits_for_action:
        raise InvalidValueError(
            f"policy.name of a shadow must be a policy that acts by itself, got {spec.name!r}",
            field="policy.name",
            value=spec.name,
        )
    if policy.partial_evidence and (lacking := job.lacks(policy.enough())):
        raise InvalidValueError(
            f"policy {spec.name!r} needs as a shadow the signal {' and '.join(lacking)}, which job {job.name!r} lacks",
            field="policy.name",
            value=spec.name,
        )
