"""Artefacts: what is written is read again, acts as stable-baselines3 does, and whatever else is offered is refused."""

import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import safetensors.numpy
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.running_mean_std import RunningMeanStd

from bss_service.core.action import NAMED_ACTIONS
from bss_service.core.evidence import features
from bss_service.core.network import Categorical, Gaussian, SquashedGaussian
from bss_service.core.observation import FIELDS
from bss_service.core.samples.dynamics import NEEDED
from bss_service.policies import artefact
from bss_service.policies.artefact import Artefact, ArtefactError
from envs.research.export import of_ppo, of_sac
from envs.spaces import action_space, discrete_action_space, observation_space
from tests.support.trained import BOX, DISCRETE, WIDTH, made_up, manifest, observations, tensors

SEEN = observations(10_000)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


# What is written is read.


@pytest.mark.parametrize("distribution", ["gaussian", "squashed_gaussian", "categorical"])
@pytest.mark.parametrize("hidden", [[], [5], [64, 32]])
@pytest.mark.parametrize("normaliser", [None, {"clip": 10.0, "epsilon": 1e-8}])
def test_an_artefact_is_read_as_it_was_written(distribution: str, hidden: list[int], normaliser: Any) -> None:
    fields = manifest(distribution, hidden, normaliser=normaliser)
    numbers = tensors(fields)
    read = artefact.read(artefact.write(fields, numbers))
    assert read.manifest.model_dump(exclude={"sha256"}) == fields
    assert read.sha256 == artefact.content_hash(read.manifest, numbers)
    assert {name: t.tolist() for name, t in read.tensors.items()} == {n: t.tolist() for n, t in numbers.items()}
    read.distribution(SEEN[0]).draw(np.random.default_rng(0))


def test_the_same_content_has_the_same_bytes() -> None:
    fields = manifest()
    backwards = dict(reversed(tensors(fields).items()))
    assert artefact.write(dict(reversed(fields.items())), backwards) == artefact.write(fields, tensors(fields))


def test_the_same_numbers_under_another_activation_are_another_policy() -> None:
    fields = manifest()
    network = {**fields["network"], "activation": "relu"}
    one, other = (
        artefact.read(artefact.write(f, tensors(fields))).sha256 for f in (fields, {**fields, "network": network})
    )
    assert one != other


# It acts as what it was exported from.


class World(gymnasium.Env[np.ndarray, Any]):
    """Spaces and nothing behind them."""

    def __init__(self, actions: gymnasium.Space[Any]) -> None:
        self.observation_space = observation_space()
        self.action_space = actions


def shaken(model: Any) -> Any:
    """The model with other numbers: as made, its last layer gives next to nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def ppo(actions: gymnasium.Space[Any], hidden: Sequence[int]) -> Any:
    kwargs = {"net_arch": list(hidden)}
    return shaken(PPO("MlpPolicy", World(actions), n_steps=8, batch_size=8, policy_kwargs=kwargs, device="cpu"))


def normaliser() -> Any:
    """What VecNormalize scales observations by."""
    rms = RunningMeanStd(shape=(len(FIELDS),))
    rms.update(np.random.default_rng(3).normal(0.2, 0.3, (100, len(FIELDS))))
    return SimpleNamespace(obs_rms=rms, clip_obs=2.0, epsilon=1e-8)


def scaled(by: Any, seen: np.ndarray) -> np.ndarray:
    """As VecNormalize does."""
    rms = by.obs_rms
    return np.clip((seen - rms.mean) / np.sqrt(rms.var + by.epsilon), -by.clip_obs, by.clip_obs).astype(np.float32)


@pytest.mark.parametrize("hidden", [[64, 64], [32], []])
@pytest.mark.parametrize("by", [None, normaliser()])
@torch.no_grad()
def test_gaussian_ppo_acts_the_same(hidden: list[int], by: Any) -> None:
    model = ppo(action_space(), hidden)
    ours = artefact.read(of_ppo(model, by)).distribution(SEEN)
    assert isinstance(ours, Gaussian)
    theirs = model.policy.get_distribution(torch.tensor(SEEN if by is None else scaled(by, SEEN)))
    np.testing.assert_allclose(ours.mode(), theirs.mode(), **CLOSE)
    actions, density = ours.draw(np.random.default_rng(0))
    np.testing.assert_allclose(density, theirs.log_prob(torch.tensor(actions)), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("hidden", [[64, 64], [32]])
@torch.no_grad()
def test_discrete_ppo_acts_the_same(hidden: list[int]) -> None:
    model = ppo(discrete_action_space(), hidden)
    ours = artefact.read(of_ppo(model)).distribution(SEEN)
    assert isinstance(ours, Categorical)
    theirs = model.policy.get_distribution(torch.tensor(SEEN)).distribution
    np.testing.assert_allclose(ours.log_probabilities(), theirs.logits, **CLOSE)


@torch.no_grad()
def test_sac_acts_the_same() -> None:
    model = shaken(SAC("MlpPolicy", World(action_space()), buffer_size=10, device="cpu"))
    ours = artefact.read(of_sac(model)).distribution(SEEN)
    assert isinstance(ours, SquashedGaussian)
    mean, log_std, _ = model.policy.actor.get_action_dist_params(torch.tensor(SEEN))
    np.testing.assert_allclose(ours.unbounded.mean, mean, **CLOSE)
    np.testing.assert_allclose(ours.unbounded.log_std, log_std, **CLOSE)
    np.testing.assert_allclose(ours.mode(), model.predict(SEEN, deterministic=True)[0], **CLOSE)


@torch.no_grad()
def test_densities_of_sac_are_the_same() -> None:
    model = shaken(SAC("MlpPolicy", World(action_space()), buffer_size=10, device="cpu"))
    ours = artefact.read(of_sac(model)).distribution(SEEN)
    assert isinstance(ours, SquashedGaussian)
    theirs = model.policy.actor.action_dist.proba_distribution(
        *(torch.tensor(t).double() for t in (ours.unbounded.mean, ours.unbounded.log_std))
    )
    u = np.random.default_rng(0).uniform(-2, 2, ours.mode().shape)  # further out their 10⁻⁶ in the logarithm shows
    expected = theirs.log_prob(torch.tanh(torch.tensor(u)), torch.tensor(u))
    np.testing.assert_allclose(ours.log_density(u), expected, atol=2e-4)


ALONE = """
import sys
for name in ("torch", "stable_baselines3", "gymnasium"):
    sys.modules[name] = None
from pathlib import Path
import numpy as np
from bss_service.http import app
from bss_service.policies import artefact
from bss_service.core.observation import FIELDS, Observation
from bss_service.policies.base import create_policy
known = artefact.read(Path(sys.argv[1]).read_bytes())
policy = create_policy("artefact", {"sha256": known.sha256}, {known.sha256: known})
seen = Observation(np.linspace(-1, 1, len(FIELDS), dtype=np.float32), 0, 0)
print(policy.act(seen, np.random.default_rng(0)).detail["raw_action"])
"""


def test_it_acts_without_torch_and_gymnasium(tmp_path: Path) -> None:
    file = tmp_path / "policy.safetensors"
    file.write_bytes(of_ppo(ppo(action_space(), [64, 64])))
    done = subprocess.run([sys.executable, "-c", ALONE, str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    seen = np.linspace(-1, 1, len(FIELDS), dtype=np.float32)
    expected, _ = artefact.read(file.read_bytes()).distribution(seen).draw(np.random.default_rng(0))
    assert json.loads(done.stdout) == expected.tolist()  # type: ignore[union-attr]


# What is refused.


class Exploit:
    """What a pickle would run when it is loaded."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('unpickled')",)


def zipped() -> bytes:
    """As `torch.save` and stable-baselines3 write."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("policy.pth", made_up())
    return buffer.getvalue()


def raw(header: bytes, body: bytes = b"") -> bytes:
    """Bytes laid out as a safetensors file."""
    return len(header).to_bytes(8, "little") + header + body


def saved(numbers: dict[str, np.ndarray], described: dict[str, Any] | str, **metadata: str) -> bytes:
    """Bytes that `write` would not make."""
    text = described if isinstance(described, str) else json.dumps(described)
    return safetensors.numpy.save(numbers, {"manifest": text, **metadata})


FIELDS_OF = manifest()
NUMBERS = tensors(FIELDS_OF)
KNOWN = artefact.read(made_up())
SIGNED = KNOWN.manifest.model_dump()
HUGE = json.dumps({"mean.bias": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 2**64 - 1]}}).encode()


def described(**changes: Any) -> bytes:
    """The artefact with other fields in its manifest."""
    return saved(NUMBERS, {**SIGNED, **changes})


def numbered(**changes: np.ndarray | None) -> bytes:
    """The artefact with other tensors, or without those that are None."""
    changed = {**NUMBERS, **{name.replace("__", "."): t for name, t in changes.items()}}
    return saved({name: t for name, t in changed.items() if t is not None}, SIGNED)


def with_first(name: str, value: float) -> np.ndarray:
    changed = NUMBERS[name].copy()
    changed.reshape(-1)[0] = value
    return changed


def normalised(variance: float) -> bytes:
    fields = manifest(normaliser={"clip": 5.0, "epsilon": 1e-8})
    numbers = tensors(fields)
    signed = artefact.read(artefact.write(fields, numbers)).manifest.model_dump()
    return saved({**numbers, "normaliser.variance": np.full(len(FIELDS), variance, np.float32)}, signed)


NETWORK = SIGNED["network"]
DEEP: Any = 1
for _ in range(20):
    DEEP = {"deeper": DEEP}

HOSTILE: dict[str, tuple[bytes, str]] = {
    # what it is: the bytes, and the field that is named
    "nothing": (b"", "artefact"),
    "a pickle": (pickle.dumps(Exploit()), "artefact"),
    "a zip, as torch writes": (zipped(), "artefact"),
    "text": (b"not a policy" * 10, "artefact"),
    "too large": (bytes(artefact.MAX_BYTES + 1), "artefact"),
    "a header longer than the file": (raw(b"{}")[:8] + b"{", "artefact"),
    "a huge header": (raw(b"{" + b" " * artefact.MAX_HEADER_BYTES + b"}"), "artefact"),
    "a huge declared size": (raw(HUGE, bytes(8)), "artefact"),
    "a header of another kind": (raw(b"[1, 2]"), "artefact"),
    "bytes after the tensors": (made_up() + b"more", "artefact"),
    "no manifest": (safetensors.numpy.save(NUMBERS), "metadata"),
    "more metadata": (saved(NUMBERS, SIGNED, code="import os"), "metadata"),
    "a manifest that is no JSON": (saved(NUMBERS, "{'a': 1}"), "manifest"),
    "a manifest that is a list": (saved(NUMBERS, "[]"), "manifest"),
    "NaN in the manifest": (saved(NUMBERS, json.dumps({**SIGNED, "training": {"x": float("nan")}})), "manifest"),
    "half a character": (saved(NUMBERS, json.dumps({**SIGNED, "training": {"x": "\ud800"}})), "manifest"),
    "a manifest nested deep": (described(training=DEEP), "manifest"),
    "a manifest nested without end": (saved(NUMBERS, "[" * 50_000 + "]" * 50_000), "manifest"),
    "another format": (described(format="bss-policy/2"), "manifest.format"),
    "a path for a name": (described(name="../../etc/passwd"), "manifest.name"),
    "an absolute path for a name": (described(name="/etc/passwd"), "manifest.name"),
    "an unknown field": (described(module="os"), "manifest.module"),
    "an unknown field inside": (described(network={**NETWORK, "class": "os.system"}), "manifest.network.class"),
    "an unknown activation": (described(network={**NETWORK, "activation": "eval"}), "manifest.network.activation"),
    "too many layers": (described(network={**NETWORK, "hidden": [4] * 9}), "manifest.network.hidden"),
    "too wide a layer": (described(network={**NETWORK, "hidden": [2**31]}), "manifest.network.hidden.0"),
    "actions that mean something else": (described(action_schema="0" * 64), "manifest.action_schema"),
    "another observation": (described(observation_schema="0" * 64), "manifest.observation_schema"),
    "another dimension": (described(action={**BOX, "dimension": WIDTH + 1}), "manifest.action.dimension"),
    "other action fields": (described(action={**BOX, "fields": [*BOX["fields"][:-1], "x"]}), "manifest.action.fields"),
    "a field twice": (described(action={**BOX, "fields": ["ema", *BOX["fields"][1:]]}), "manifest.action.fields"),
    "a distribution over something else": (described(action=DISCRETE), "manifest.network.distribution"),
    "another hash": (described(sha256="0" * 64), "manifest.sha256"),
    "another name under the same hash": (described(name="other"), "manifest.sha256"),
    "other numbers under the same hash": (numbered(log_std=with_first("log_std", 0.5)), "manifest.sha256"),
    "a tensor too many": (numbered(code=np.zeros(3, np.float32)), "tensors"),
    "a path for a tensor": (numbered(**{"../x": np.zeros(3, np.float32)}), "tensors"),
    "a tensor too few": (numbered(log_std=None), "tensors"),
    "another dtype": (numbered(log_std=NUMBERS["log_std"].astype(np.float64)), "tensors.log_std"),
    "another shape": (numbered(layer_0__weight=NUMBERS["layer_0.weight"].T.copy()), "tensors.layer_0.weight"),
    "NaN": (numbered(mean__bias=with_first("mean.bias", float("nan"))), "tensors.mean.bias"),
    "infinity": (numbered(mean__weight=with_first("mean.weight", float("inf"))), "tensors.mean.weight"),
    "a density without bounds": (numbered(log_std=with_first("log_std", 1e30)), "tensors.log_std"),
    "a negative variance": (normalised(variance=-1.0), "tensors.normaliser.variance"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_whatever_is_no_artefact_is_refused_by_field(kind: str) -> None:
    data, field = HOSTILE[kind]
    with pytest.raises(ArtefactError) as refused:
        artefact.read(data)
    assert refused.value.field == field, refused.value.detail
    assert field in refused.value.detail


@pytest.mark.parametrize("names", [[], ["uniform", "uniform"], ["uniform", "no_such"]])
def test_named_actions_must_be_known_and_differ(names: list[str]) -> None:
    fields = manifest("categorical", action={"kind": "discrete", "names": names})
    with pytest.raises(ArtefactError, match="names"):
        artefact.write(fields, {})


def test_an_artefact_may_use_some_of_the_named_actions() -> None:
    names = list(NAMED_ACTIONS)[:2]
    read = artefact.read(made_up("categorical", action={"kind": "discrete", "names": names}))
    assert read.tensors["logits.weight"].shape[0] == 2


def test_what_would_not_be_read_is_not_written() -> None:
    with pytest.raises(ArtefactError, match=r"tensors.log_std must have shape"):
        artefact.write(FIELDS_OF, {**NUMBERS, "log_std": np.zeros(WIDTH + 1)})


def test_a_network_that_overflows_fails_with_a_sentence() -> None:
    fields = manifest("gaussian", [])
    numbers = {**tensors(fields), "mean.weight": np.full((WIDTH, len(FIELDS)), 3e38, np.float32)}
    known: Artefact = artefact.read(artefact.write(fields, numbers))
    with pytest.raises(ValueError, match="the network gave"):
        known.distribution(np.ones(len(FIELDS), np.float32))


# Judges.

JUDGE = {
    "format": "bss-judge/1",
    "name": "judge",
    "feature_schema": features.SCHEMA_HASH,
    "label": [5],
    "modality": [],
    "training": {"command": "bss research train evidence"},
}


def judge(**changes: Any) -> bytes:
    fields = {**JUDGE, **changes}
    return artefact.write(fields, tensors(fields))


def test_a_judge_is_read_with_its_networks() -> None:
    read = artefact.read_judge(judge())
    assert [weight.shape for weight, _ in read.judge().label] == [(5, len(features.FIELDS)), (3, 5)]
    inputs = len(features.FIELDS) + len(features.MODALITY_FIELDS)
    assert [weight.shape for weight, _ in read.judge().modality] == [(1, inputs)]
    assert read.manifest.training == JUDGE["training"]
    assert artefact.read_any(read.data).sha256 == read.sha256


@pytest.mark.parametrize(
    ("evaluation", "error"), [(None, 0.1), ({"calibration_error": 0.25}, 0.25), ({"calibration_error": "none"}, 0.1)]
)
def test_a_judge_errs_as_its_evaluation_says_or_by_a_tenth(evaluation: dict[str, Any] | None, error: float) -> None:
    assert artefact.read_judge(judge(evaluation=evaluation)).judge().calibration_error == error


def test_a_judge_of_other_features_is_refused() -> None:
    with pytest.raises(ArtefactError, match="feature_schema must be this service's"):
        judge(feature_schema="0" * 64)


def test_a_judge_is_no_policy_and_a_policy_no_judge() -> None:
    with pytest.raises(ArtefactError, match=r"format must be bss-policy/1, got 'bss-judge/1'"):
        artefact.read(judge())
    with pytest.raises(ArtefactError, match=r"format must be bss-judge/1, got 'bss-policy/1'"):
        artefact.read_judge(made_up())


@pytest.mark.parametrize("name", ["label_1.bias", "modality_0.weight"])
def test_a_judge_without_a_tensor_is_refused(name: str) -> None:
    numbers = tensors(JUDGE)
    del numbers[name]
    with pytest.raises(ArtefactError, match="tensors must be"):
        artefact.write(JUDGE, numbers)


# Policies that set a part of the action.


def test_a_policy_may_set_some_components_and_leave_the_others() -> None:
    data = made_up(action={"kind": "box", "dimension": 2, "fields": ["keep", "ema"]})
    assert artefact.read(data).distribution(SEEN).mode().shape[-1] == 2  # type: ignore[union-attr]
    assert artefact.read(data).needs() == {}


def test_a_policy_needs_the_signals_of_the_components_that_it_sets() -> None:
    loss = made_up(action={"kind": "box", "dimension": 1, "fields": ["kappa_loss"]})
    assert set(artefact.read(loss).needs()) == {"loss"}
    belief = made_up(action={"kind": "box", "dimension": 1, "fields": ["belief"]})
    assert set(artefact.read(belief).needs()) == set(NEEDED)
