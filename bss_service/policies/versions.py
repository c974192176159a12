"""The policies that a job has had, and the one that is in force."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import pydantic

from bss_service.core.action import GROUP, GROUPS, Action
from bss_service.core.evidence.posterior import Judge
from bss_service.core.observation import Observation
from bss_service.errors import InvalidValueError, NotReproducibleError
from bss_service.policies.artefact import NO_ARTEFACTS, AnyArtefact, Artefacts
from bss_service.policies.base import (
    BrokenPolicyError,
    Choice,
    Policy,
    UnknownPolicyError,
    create_policy,
    policy_class,
)
from bss_service.policies.shipped import usual_judge
from bss_service.protocol.actions import ActionRequest
from bss_service.protocol.decisions import Chosen, Decision
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicyAnswer, PolicySpec

MAX_SHOWN: Final = 20  # groups in a sentence
Known = Callable[[], Sequence[Decision]]
_STREAM: Final = 2**63  # keys of policies' random generators, apart from those of plans


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A policy of the job and the first step that it may draw; a later version with an earlier or equal step wins."""

    version: int
    spec: PolicySpec
    first_step: int

    @property
    def waits_for_action(self) -> bool:
        """Whether its actions come from outside, so that it need not and cannot be asked for them."""
        try:
            return policy_class(self.spec.name).waits_for_action
        except (UnknownPolicyError, BrokenPolicyError):
            return False

    def answer(self, *, changed: bool = False) -> PolicyAnswer:
        """The version as a message."""
        return PolicyAnswer(policy=self.spec, policy_version=self.version, first_step=self.first_step, changed=changed)


@dataclass(frozen=True, slots=True)
class Remembered:
    """The state of a policy, or of a shadow, after some of its acts, so that these need not be done again."""

    version: int
    acts: int
    learned: int  # rewards that it had taken in when it acted last
    state: Mapping[str, Any]  # JSON values

    @classmethod
    def of(cls, version: int, policy: Policy, acts: int, learned: int = 0) -> "Remembered | None":
        """None where the policy has not acted, does not tell its state, or one that is no JSON."""
        if not acts:
            return None
        try:
            state = policy.state()
            plain = None if state is None else json.loads(json.dumps(dict(state), allow_nan=False))
        except Exception:  # of a package that this one knows nothing about: it will have to act again as it did
            return None
        return None if plain is None else cls(version, acts, learned, plain)


@dataclass(slots=True)
class PolicyVersions:
    """All versions of a job in order, and the live policy: the one that acted last."""

    job: JobSpec
    versions: list[PolicyVersion]
    artefacts: dict[str, AnyArtefact] = field(default_factory=dict)  # those that the policies name
    remembered: Remembered | None = None
    _live: tuple[int, Policy] | None = field(default=None, init=False)

    def in_force(self, step: int) -> PolicyVersion:
        """The version that draws a step."""
        return self.versions[self._position(step)]

    def until(self, step: int, end: int) -> int:
        """The first step after `step` that another version draws, at most `end`."""
        return min([end, *(v.first_step for v in self.versions[self._position(step) + 1 :])])

    def still_to_draw(self, step: int) -> list[PolicyVersion]:
        """The versions that draw `step` or a later one, as things stand."""
        drawing: list[PolicyVersion] = []
        later = math.inf  # where the earliest of those behind begins
        for version in reversed(self.versions):
            if max(step, version.first_step) < later:
                drawing.append(version)
            later = min(later, version.first_step)
        return drawing[::-1]

    def add(self, spec: PolicySpec, first_step: int) -> PolicyVersion:
        """The next version."""
        version = PolicyVersion(self.versions[-1].version + 1, spec, first_step)
        self.versions.append(version)
        return version

    def act(
        self, observation: Observation, own: Sequence[Decision], rewarded: Sequence[Decision], known: Known
    ) -> Choice:
        """Let the policy in force learn what is new to it, and act.

        own: its decisions so far; rewarded: those of them whose reward it may know, in order; known: as `restore` has
        it. A policy that can't be made any more is one that fails.
        """
        version = self.in_force(observation.step)
        try:
            # Not always a new one: batches drawn by a client can lead back to a step before a swap.
            policy = self._policy(version, own, known)
        except InvalidValueError as error:
            return failed(error)
        learned = own[-1].learned if own else 0
        return consult(policy, self.job, self._rng(version, len(own)), observation, rewarded[learned:])

    def judge(self, version: PolicyVersion) -> Judge:
        """What reads the evidence of samples while a version is in force; of a policy that can't be made the usual."""
        if self._live is not None and self._live[0] == version.version:
            own = self._live[1].own_judge()
        else:
            try:
                own = make_policy(version.spec, self.artefacts).own_judge()
            except InvalidValueError:
                own = None
        return own or usual_judge()

    def reads_partly(self, step: int) -> bool:
        """Whether the policy of a step acts on what evidence there is, since the job lacks signals for more."""
        try:
            policy = policy_class(self.in_force(step).spec.name)
        except (UnknownPolicyError, BrokenPolicyError):
            return False
        return policy.partial_evidence and bool(self.job.lacks(policy.enough()))

    def ready(self, version: PolicyVersion, own: Sequence[Decision], known: Known) -> None:
        """Have a policy in the state in which it acted last. Raises as `restore` does, but not for one that can't be
        made if nothing hangs on it: it has not acted, or failed when it last did, or its actions come from outside.
        """
        if version.waits_for_action:
            return
        try:
            self._policy(version, own, known)
        except InvalidValueError:
            if own and not own[-1].failed:
                raise

    def remember(self, step: int, own: Callable[[int], Sequence[Decision]], learned: int) -> Remembered | None:
        """The state of the policy that draws a step, where it has acted.

        own: gives the decisions of a version; learned: the rewards that the last of them had taken in.
        """
        version = self.in_force(step).version
        if self._live is None or self._live[0] != version:
            return known_of(self.remembered, version)
        return Remembered.of(version, self._live[1], len(own(version)), learned)

    def restore(self, version: PolicyVersion, own: Sequence[Decision], known: Known) -> Policy:
        """Bring a policy to its state by letting it act and learn again as it did; from then on it is the live one.

        own: its decisions; known: gives those of them whose reward is known. Raises NotReproducibleError if it acts
        otherwise than it did, and InvalidValueError if it can't be made. Of a stateless policy only the last decision
        is checked; of one whose state is remembered those that came after.
        """
        policy, acts, learned = brought_back(
            lambda: make_policy(version.spec, self.artefacts), self.remembered, version, len(own)
        )
        rewarded = [] if policy.stateless else known()
        for number, decision in to_ask_again(policy, own, acts):
            new = rewarded[learned : decision.learned]
            again = consult(policy, self.job, self._rng(version, number), decision.observation, new)
            learned = decision.learned
            if not is_same(again, decision):
                raise NotReproducibleError(
                    f"policy {version.spec.name!r} chose otherwise when asked again about step {decision.first_step}: "
                    "its act and learn must depend on their arguments alone"
                )
        self._live = (version.version, policy)
        return policy

    def _position(self, step: int) -> int:
        """Where the version that draws a step stands; all behind it begin later."""
        return next(k for k in reversed(range(len(self.versions))) if self.versions[k].first_step <= step)

    def _policy(self, version: PolicyVersion, own: Sequence[Decision], known: Known) -> Policy:
        if self._live is not None and self._live[0] == version.version:
            return self._live[1]
        return self.restore(version, own, known)

    def _rng(self, version: PolicyVersion, number: int) -> np.random.Generator:
        return stream(self.job.seed, _STREAM + version.version, number)


def stream(seed: int, key: int, number: int) -> np.random.Generator:
    """The random generator of a policy's act number `number`."""
    keys = np.array([seed, key], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=keys, counter=[0, number, 0, 0]))


def known_of(remembered: Remembered | None, version: int) -> Remembered | None:
    """What is remembered, where it is of a version."""
    return remembered if remembered is not None and remembered.version == version else None


def brought_back(
    make: Callable[[], Policy], remembered: Remembered | None, version: PolicyVersion, acts: int
) -> tuple[Policy, int, int]:
    """A policy that has acted so often in the latest state that is remembered of it.

    With the acts and the rewards that are in that state: none in a new one's.
    """
    policy, known = make(), known_of(remembered, version.version)
    if policy.stateless or known is None or known.acts > acts:
        return policy, 0, 0
    try:
        policy.resume(known.state)
    except Exception:  # another release of it tells its state otherwise
        return make(), 0, 0
    return policy, known.acts, known.learned


def to_ask_again(policy: Policy, decisions: Sequence[Decision], acts: int) -> list[tuple[int, Decision]]:
    """The decisions of a policy after some acts, numbered, that bring it to its state.

    Of a stateless one the last, as a check.
    """
    if policy.stateless:
        return [(len(decisions) - 1, decisions[-1])] if decisions else []
    return list(enumerate(decisions[acts:], acts))


def consult(
    policy: Policy, job: JobSpec, rng: np.random.Generator, observation: Observation, rewarded: Sequence[Decision] = ()
) -> Choice:
    """A policy that fails must not end a training run: plain shuffling instead, and the decision log says why.

    rewarded: what it is to learn from first.
    """
    try:
        for decision in rewarded:
            if decision.reward is not None:
                policy.learn(decision)
        choice = _plain(policy.act(observation, rng))
    except Exception as error:
        return failed(error)
    if policy.partial_evidence and job.lacks(policy.enough()):
        choice = replace(choice, action=choice.action.without(job.lacks(choice.action.needs())))
    lacking = job.lacks(choice.action.needs(partial_evidence=policy.partial_evidence))
    return failed(ValueError(f"its action needs {_listed(job, lacking)}")) if lacking else choice


def failed(error: Exception) -> Choice:
    """The choice in place of one that a policy could not make."""
    return Choice(Action(), 1.0, {"error": f"{type(error).__name__}: {error}"})


def is_same(one: Choice | Chosen, other: Choice | Chosen) -> bool:
    """Whether two choices draw alike and were as likely."""
    return (one.action, one.propensity) == (other.action, other.propensity)


def choice_from_outside(request: ActionRequest | None, previous: Action | None) -> Choice:
    """The choice that an outside agent made; where it made none, the action of the interval before once more."""
    if request is None:
        instead = "plain shuffling" if previous is None else "that of the interval before"
        return Choice(previous or Action(), 1.0, {"fallback": f"no action came in time: {instead}"})
    agent = {"agent": request.detail} if request.detail else {}
    return _plain(Choice(request.resolved(), request.propensity, {"raw_action": request.action, **agent}))


def make_policy(spec: PolicySpec, artefacts: Artefacts = NO_ARTEFACTS) -> Policy:
    """Raises InvalidValueError naming the policy or the parameter."""
    try:
        return create_policy(spec.name, spec.parameters, artefacts)
    except (UnknownPolicyError, BrokenPolicyError) as error:
        raise InvalidValueError(str(error), field="policy.name", value=spec.name) from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(["policy.parameters", *map(str, first["loc"])])
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidValueError(
            f"{field_name}: {reason}, got {first['input']!r}", field=field_name, value=first["input"]
        ) from None


def check_policy(spec: PolicySpec, job: JobSpec, artefacts: Artefacts = NO_ARTEFACTS) -> Policy:
    """A policy that a job may have. Raises InvalidValueError as `make_policy`, or naming the signals that it lacks."""
    policy = make_policy(spec, artefacts)
    lacking = job.lacks(policy.needs())
    if lacking:
        raise InvalidValueError(
            f"policy {spec.name!r} needs {_listed(job, lacking)}", field="policy.name", value=spec.name
        )
    return policy


def check_action(action: Action, job: JobSpec) -> None:
    """Raises InvalidValueError naming the signals that an action from outside needs and the job lacks."""
    lacking = job.lacks(action.needs())
    if lacking:
        raise InvalidValueError(f"action needs {_listed(job, lacking)}", field="action", value=action.as_dict())


def _listed(job: JobSpec, lacking: Sequence[str]) -> str:
    signals = [name for name in lacking if name != GROUPS and not name.startswith(GROUP)]
    groups = [name for name in lacking if name not in signals]
    wanted = ([f"the signal {' and '.join(signals)}"] if signals else []) + groups
    declared = ", ".join(signal.name for signal in job.signals)
    if groups and job.groups is not None:
        declared += f", groups {', '.join(job.group_names[:MAX_SHOWN])}"
    return f"{' and '.join(wanted)}, which job {job.name!r} does not have: it declares {declared}"


def _plain(choice: Choice) -> Choice:
    """The choice in floats and JSON values, as the store gives it back; raises whatever is wrong with it."""
    action = Action(**{name: _plain_value(v) for name, v in choice.action.as_dict().items()})
    propensity = float(choice.propensity)
    if not 0 < propensity < math.inf:
        raise ValueError(f"propensity must be positive and finite, got {propensity}")
    return Choice(action, propensity, json.loads(json.dumps(dict(choice.detail), allow_nan=False)))


def _plain_value(value: Any) -> Any:
    """A component of an action: a word, a number, or a mixture."""
    if isinstance(value, Mapping):
        return {name: float(share) for name, share in value.items()}
    return value if isinstance(value, str) else float(value)
