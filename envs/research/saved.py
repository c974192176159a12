"""Models that stable-baselines3 saved, read without running anything of them.

Such a file holds pickles, and a pickle can be a program. None is read here: parameters come by
`torch.load(weights_only=True)`, and of the rest what stands there as JSON, where a pickled value has its type and its
plain fields beside it.
"""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from bss_service.core.action import DIMENSION, NAMED_ACTIONS
from bss_service.core.observation import FIELDS

SAFE_TORCH: Final = (2, 6)  # from which on `weights_only` keeps what it promises (CVE-2025-32434)
MAX_BYTES: Final = 64 * 2**20  # of a part of a file: an artefact's own bound is lower, but SAC has critics besides
IDLE: Final = (  # arguments of a policy that say nothing of how its actor computes, once its parameters are there
    "net_arch",
    "activation_fn",  # which is looked at
    "log_std_init",
    "ortho_init",
    "optimizer_class",
    "optimizer_kwargs",
    "n_critics",
    "share_features_extractor",
    "use_sde",  # as well
)
USUAL: Final = {  # activations of stable-baselines3's own policies, by module
    "stable_baselines3.common.policies": "<class 'torch.nn.modules.activation.Tanh'>",
    "stable_baselines3.sac.policies": "<class 'torch.nn.modules.activation.ReLU'>",
}


@dataclass(frozen=True, slots=True)
class Saved:
    """What is known of a model whose policy is an MlpPolicy on the spaces of the environments."""

    activation: str  # its class, as text
    parameters: Mapping[str, Any]  # tensors by name
    timesteps: int | None  # that it was trained for

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises ValueError naming what is wrong or can't be known so, FileNotFoundError for no file."""
        try:
            with zipfile.ZipFile(path) as file:
                described = _description(file)
                activation = _activation(described)
                parameters = _parameters(file)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} must be a model that stable-baselines3 saved: {error}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        timesteps = described.get("num_timesteps")
        return cls(activation, parameters, timesteps if isinstance(timesteps, int) else None)


def _description(file: zipfile.ZipFile) -> dict[str, Any]:
    try:
        described = json.loads(_part(file, "data"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"data must be JSON: {error}") from None
    if not isinstance(described, dict):
        raise ValueError(f"data must be a JSON object, got {type(described).__name__}")
    return described


def _parameters(file: zipfile.ZipFile) -> dict[str, Any]:
    import torch

    version = torch.__version__
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < SAFE_TORCH:
        raise ValueError(f"torch must be {'.'.join(map(str, SAFE_TORCH))} or newer to read it safely, got {version}")
    try:
        state = torch.load(io.BytesIO(_part(file, "policy.pth")), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"policy.pth must hold tensors and nothing else: {first}") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError("policy.pth must hold tensors by name")
    return state


def _part(file: zipfile.ZipFile, name: str) -> bytes:
    if name not in file.namelist():
        raise ValueError(f"it must be a model that stable-baselines3 saved, got a file without {name}")
    size = file.getinfo(name).file_size
    if size > MAX_BYTES:
        raise ValueError(f"{name} must have at most {MAX_BYTES} bytes, got {size}")
    return file.read(name)


def _activation(described: Mapping[str, Any]) -> str:
    """That of the actor's layers. Raises ValueError where its parameters and this don't say all of what it computes."""
    kind, arguments = _object(described, "policy_class"), _object(described, "policy_kwargs")
    usual = USUAL.get(kind.get("__module__", ""))
    if usual is None:
        raise ValueError(
            f"its policy must be stable-baselines3's own MlpPolicy, got one of {kind.get('__module__')!r}; if it "
            "computes as that does, envs.research.export.of_ppo(PPO.load(…)) writes it from Python, where its code runs"
        )
    if described.get("use_sde") or arguments.get("use_sde"):
        raise ValueError("it explores by gSDE (use_sde), whose noise an artefact can't draw: train it without")
    for argument in sorted(arguments):
        if not argument.startswith(":") and argument not in IDLE:
            raise ValueError(
                f"its policy_kwargs hold {argument}, and what that does can't be known without running it; if it "
                "computes as MlpPolicy does, envs.research.export.of_ppo(PPO.load(…)) writes it from Python"
            )
    if described.get("_last_original_obs") is not None:
        raise ValueError(
            "it was trained behind VecNormalize, whose moments are in no file that can be read safely: from Python, "
            "envs.research.export.of_ppo(model, normaliser) writes both"
        )
    _check_spaces(_object(described, "observation_space"), _object(described, "action_space"))
    return str(arguments.get("activation_fn", usual))


def _check_spaces(observation: Mapping[str, Any], action: Mapping[str, Any]) -> None:
    box, discrete = "<class 'gymnasium.spaces.box.Box'>", "<class 'gymnasium.spaces.discrete.Discrete'>"
    if observation.get(":type:") != box or observation.get("_shape") != [len(FIELDS)]:
        raise ValueError(f"its observations must be the environments', Box ({len(FIELDS)},), {_got(observation)}")
    is_box = action.get(":type:") == box and action.get("_shape") == [DIMENSION]
    is_discrete = action.get(":type:") == discrete and str(action.get("n")) == str(len(NAMED_ACTIONS))
    if not is_box and not is_discrete:
        wanted = f"Box ({DIMENSION},) or Discrete({len(NAMED_ACTIONS)})"
        raise ValueError(f"its actions must be the environments', {wanted}, {_got(action)}")


def _got(space: Mapping[str, Any]) -> str:
    told = {name: space[name] for name in (":type:", "_shape", "n") if name in space}
    return f"got {str(told)[:200]}"


def _object(described: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = described.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"data must hold an object {name}, got {type(value).__name__}")
    return value
