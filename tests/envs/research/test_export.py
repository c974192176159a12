"""Models that stable-baselines3 saved, as artefacts: they act as the models do, and nothing of the file runs."""

import base64
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn
from typer.testing import CliRunner

from bss_cli.commands import app
from bss_service.core.observation import FIELDS
from bss_service.policies import artefact
from envs.research.export import of_file
from envs.spaces import action_space, discrete_action_space
from tests.support.trained import observations

SEEN = observations(50)


class World(gymnasium.Env[Any, Any]):
    """The spaces of the environments, and nothing that happens."""

    def __init__(self, actions: gymnasium.Space[Any], fields: int = len(FIELDS)) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (fields,))
        self.action_space = actions

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros(self.observation_space.shape, np.float32), {}  # type: ignore[arg-type]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.reset()[0], 0.0, False, False, {}


class Own(ActorCriticPolicy):
    """A policy of somebody else's."""


class Extractor(FlattenExtractor):
    """An extractor of somebody else's."""


def model(kind: Callable[..., BaseAlgorithm], actions: gymnasium.Space[Any], **arguments: Any) -> Any:
    """With numbers of its own: as made, its last layer gives next to nothing."""
    arguments = {"policy": "MlpPolicy", "env": World(actions), "device": "cpu", "seed": 0, **arguments}
    made = kind(**arguments)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.policy.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def saved(made: BaseAlgorithm, folder: Path) -> Path:
    path = folder / "model.zip"
    made.save(path)
    return path


def acted(exported: artefact.Artefact) -> Any:
    """The likeliest actions, as an environment takes them."""
    modes = (exported.distribution(seen).mode() for seen in SEEN)
    return np.array([np.clip(mode, -1, 1) if np.ndim(mode) else mode for mode in modes])


def rewritten(path: Path, part: str, content: bytes) -> None:
    """The file with another part in it."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, old in parts.items():
            file.writestr(name, content if name == part else old)


@pytest.mark.parametrize(
    ("kind", "actions", "arguments"),
    [
        (PPO, action_space(), {}),
        (PPO, discrete_action_space(), {"policy_kwargs": {"net_arch": {"pi": [16], "vf": [8, 8]}}}),
        (
            A2C,
            action_space(),
            {"policy_kwargs": {"net_arch": [8, 6, 4], "activation_fn": nn.ReLU}},
        ),
        (A2C, action_space(), {"policy_kwargs": {"net_arch": []}}),
        (SAC, action_space(), {"policy_kwargs": {"net_arch": [16]}, "buffer_size": 10}),
    ],
)
def test_an_exported_file_acts_as_its_model_does(kind: Any, actions: Any, arguments: Any, tmp_path: Path) -> None:
    made = model(kind, actions, **arguments)
    exported = artefact.read(of_file(saved(made, tmp_path)))
    np.testing.assert_allclose(acted(exported), made.predict(SEEN, deterministic=True)[0], atol=1e-5)
    assert exported.manifest.name == "model"


def test_the_command_writes_it_with_its_manifest(tmp_path: Path) -> None:
    path = saved(model(PPO, action_space()), tmp_path)
    out = tmp_path / "mine.safetensors"
    result = CliRunner().invoke(app, ["research", "export", str(path), str(out), "--name", "mine"])
    assert result.exit_code == 0, result.output
    exported = artefact.read(out.read_bytes())
    assert exported.manifest.name == "mine"
    assert json.loads((tmp_path / "mine.json").read_text()) == exported.manifest.model_dump(mode="json")


class Program:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    made = model(PPO, action_space(), policy_kwargs={"net_arch": [8]})
    path, ran = saved(made, tmp_path), tmp_path / "ran"
    program = base64.b64encode(pickle.dumps(Program(ran))).decode()
    with zipfile.ZipFile(path) as file:
        described = json.loads(file.read("data"))
    for name, value in described.items():
        described[name] = {**value, ":serialized:": program} if isinstance(value, dict) else value
    described["learning_rate"] = {":type:": "<class 'float'>", ":serialized:": program}
    rewritten(path, "data", json.dumps(described).encode())
    exported = artefact.read(of_file(path))
    np.testing.assert_allclose(acted(exported), made.predict(SEEN, deterministic=True)[0], atol=1e-5)
    assert not ran.exists()
    with pytest.raises(Exception):  # noqa: B017 - whatever it makes of it: stable-baselines3 runs it
        PPO.load(path, device="cpu")
    assert ran.exists()


def test_parameters_that_are_a_program_are_refused(tmp_path: Path) -> None:
    path, ran = saved(model(PPO, action_space()), tmp_path), tmp_path / "ran"
    torch.save({"action_net.weight": Program(ran)}, tmp_path / "program.pth")
    rewritten(path, "policy.pth", (tmp_path / "program.pth").read_bytes())
    with pytest.raises(ValueError, match=r"policy\.pth must hold tensors and nothing else"):
        of_file(path)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"policy_kwargs": {"activation_fn": nn.ELU}}, "activation must be Tanh or ReLU, .*ELU"),
        ({"policy_kwargs": {"features_extractor_class": Extractor}}, r"features_extractor_class, .*export\.of_ppo"),
        ({"policy": Own}, r"stable-baselines3's own MlpPolicy, got one of .*test_export.*export\.of_ppo\(PPO\.load"),
        ({"use_sde": True}, "gSDE"),
        ({"env": World(action_space(), fields=7)}, r"observations must be .*Box \(50,\), got .*\[7\]"),
        ({"env": World(gymnasium.spaces.Discrete(3))}, r"actions must be .* or Discrete\(8\), got .*'3'"),
        ({"env": VecNormalize(DummyVecEnv([lambda: World(action_space())]))}, r"of_ppo\(model, normaliser\)"),
    ],
)
def test_what_cannot_be_known_without_running_it_is_refused_with_what_to_call(
    arguments: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    made = model(PPO, action_space(), n_steps=4, batch_size=4, **arguments)
    if isinstance(made.env, VecNormalize):
        made.learn(4)
    with pytest.raises(ValueError, match=rf"model\.zip: .*{complaint}"):
        of_file(saved(made, tmp_path))


def test_a_model_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    path = saved(model(DQN, discrete_action_space(), buffer_size=10), tmp_path)
    with pytest.raises(ValueError, match=r"MlpPolicy, got one of 'stable_baselines3\.dqn\.policies'"):
        of_file(path)


@pytest.mark.parametrize(
    ("part", "content", "complaint"),
    [
        ("data", b"\x80\x04.", "data must be JSON"),
        ("data", b"[1]", "data must be a JSON object, got list"),
        ("data", b"{}", "data must hold an object policy_class, got NoneType"),
        ("policy.pth", b"", "policy.pth must hold tensors and nothing else"),
    ],
)
def test_a_damaged_file_is_refused(part: str, content: bytes, complaint: str, tmp_path: Path) -> None:
    path = saved(model(PPO, action_space()), tmp_path)
    rewritten(path, part, content)
    with pytest.raises(ValueError, match=complaint):
        of_file(path)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="must be a model that stable-baselines3 saved"):
        of_file(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other", "")
    with pytest.raises(ValueError, match="got a file without data"):
        of_file(path)
