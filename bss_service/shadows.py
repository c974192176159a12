"""The policies that watch a job: each acts beside the live one on the same observations, and draws nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from bss_service.artefact import Artefact
from bss_service.core.observation import Observation
from bss_service.errors import NotReproducibleError
from bss_service.policies.base import Choice, Decision, Policy, ShadowChoice
from bss_service.versions import PolicyVersion, consult, failed, make_policy, stream
from bss_service.wire import PolicySpec

_STREAM: Final = 2**63 + 2**62  # keys of shadows' random generators, apart from those of policies and plans


@dataclass(slots=True)
class Shadows:
    """All shadows of a job in order, numbered from 1; the last one watches until it is ended.

    A shadow never learns: rewards tell of what was drawn, and nothing was drawn by it. Whatever goes wrong with one
    stands in the decision log and nowhere else.
    """

    seed: int
    artefacts: dict[str, Artefact]  # those that the policies name
    versions: list[PolicyVersion] = field(default_factory=list)
    watching: bool = False
    _live: tuple[int, Policy] | None = field(default=None, init=False)

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

    def watch(self, observation: Observation, decisions: Sequence[Decision]) -> ShadowChoice | None:
        """What the shadow would do, if there is one. decisions: all of the job."""
        shadow = self.current
        if shadow is None:
            return None
        seen = [d for d in decisions if d.shadow is not None and d.shadow.number == shadow.version]
        try:
            choice = self._act(self._policy(shadow, seen), shadow, len(seen), observation)
        except Exception as error:
            choice = failed(error)
        return ShadowChoice(shadow.version, choice)

    def _policy(self, shadow: PolicyVersion, seen: Sequence[Decision]) -> Policy:
        """The shadow's policy in the state in which it acted last; raises NotReproducibleError if it acts otherwise."""
        if self._live is not None and self._live[0] == shadow.version:
            return self._live[1]
        policy = make_policy(shadow.spec, self.artefacts)
        for number, decision in enumerate(seen):
            again = self._act(policy, shadow, number, decision.observation)
            if decision.shadow is None or not _same(again, decision.shadow.choice):
                raise NotReproducibleError(
                    f"shadow {shadow.spec.name!r} chose otherwise when asked again about step {decision.first_step}"
                )
        self._live = (shadow.version, policy)
        return policy

    def _act(self, policy: Policy, shadow: PolicyVersion, number: int, observation: Observation) -> Choice:
        own = replace(observation, vector=observation.vector.copy())  # whatever it does to it, the live one's stays
        return consult(policy, stream(self.seed, _STREAM + shadow.version, number), own)


def _same(one: Choice, other: Choice) -> bool:
    return (one.action, one.propensity) == (other.action, other.propensity)
