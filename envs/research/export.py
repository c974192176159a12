"""What a training run came to, as an artefact that a service can run."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.numpy

from bss_service.core.action import ACTION_SCHEMA_HASH, COMPONENTS, DIMENSION, NAMED_ACTIONS
from bss_service.core.evidence.features import SCHEMA_HASH as FEATURE_SCHEMA
from bss_service.core.evidence.partial import PartialJudge
from bss_service.core.evidence.posterior import Judge
from bss_service.core.observation import SCHEMA_HASH
from envs.research.saved import Saved


def manifest(
    name: str, distribution: str, hidden: list[int], activation: str, normaliser: dict[str, float] | None
) -> dict[str, Any]:
    """The manifest of an artefact, but for its hash; how it was trained and judged is filled in by whoever knows."""
    from bss_service.policies import artefact

    discrete = {"kind": "discrete", "names": list(NAMED_ACTIONS)}
    box = {"kind": "box", "dimension": DIMENSION, "fields": list(COMPONENTS)}
    return {
        "format": artefact.FORMAT,
        "name": name,
        "observation_schema": SCHEMA_HASH,
        "action_schema": ACTION_SCHEMA_HASH,
        "action": discrete if distribution == "categorical" else box,
        "network": {"activation": activation, "hidden": hidden, "distribution": distribution},
        "normaliser": normaliser,
        "training": {},
        "evaluation": None,
    }


def of_ppo(model: Any, normaliser: Any = None, *, name: str = "ppo", training: dict[str, Any] | None = None) -> bytes:
    """The artefact of a PPO or A2C model of stable-baselines3 with an MlpPolicy, and of the VecNormalize around it.

    Raises ArtefactError where a number is not finite, ValueError where the network is none that an artefact can hold.
    """
    activation = _activation(model.policy.mlp_extractor.policy_net)
    return _written(name, _of_actor_critic(model.policy.state_dict()), activation, normaliser, training)


def of_sac(model: Any, normaliser: Any = None, *, name: str = "sac", training: dict[str, Any] | None = None) -> bytes:
    """The artefact of a SAC model of stable-baselines3, and of the VecNormalize around it. Raises as `of_ppo`."""
    activation = _activation(model.policy.actor.latent_pi)
    return _written(name, _of_actor(model.policy.state_dict()), activation, normaliser, training)


def of_file(path: Path, *, name: str | None = None) -> bytes:
    """The artefact of a file that `PPO.save`, `A2C.save` or `SAC.save` of stable-baselines3 wrote; none of it is run.

    name: in the manifest; by default the file's. Raises ValueError naming what can't be known without running it,
    FileNotFoundError for no file, ArtefactError as `of_ppo`.
    """
    saved = Saved.read(path)
    try:
        of_actor = _of_actor if any(key.startswith("actor.") for key in saved.parameters) else _of_actor_critic
        training = {"algorithm": "stable-baselines3", "timesteps": saved.timesteps}
        activation = _known_activation(saved.activation)
        return _written(name or path.stem, of_actor(saved.parameters), activation, None, training)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def of_judge(
    judge: Judge, *, name: str = "evidence", training: dict[str, Any], evaluation: dict[str, Any] | None = None
) -> bytes:
    """The artefact of a judge. training: the command that made it, and what is known of that."""
    from bss_service.policies import artefact

    networks = {"label": judge.label, "modality": judge.modality}
    numbers = {
        f"{network}_{k}.{part}": values
        for network, layers in networks.items()
        for k, layer in enumerate(layers)
        for part, values in zip(("weight", "bias"), layer, strict=True)
    }
    hidden = {network: [len(bias) for _, bias in layers[:-1]] for network, layers in networks.items()}
    fields = {"format": artefact.JUDGE_FORMAT, "name": name, "feature_schema": FEATURE_SCHEMA, **hidden}
    return artefact.write({**fields, "training": training, "evaluation": evaluation}, numbers)


def of_partial_judge(judge: PartialJudge, *, training: dict[str, Any]) -> bytes:
    """A partial judge as this package brings it: numbers, and how it was trained as JSON. It is no artefact."""
    numbers: dict[str, Any] = {}
    for k, (weight, bias) in enumerate(judge.layers):
        numbers |= {f"weight_{k}": weight, f"bias_{k}": bias}
    return safetensors.numpy.save(numbers, {"training": json.dumps(training)})


def _written(
    name: str,
    of_actor: tuple[str, dict[str, Any]],
    activation: str,
    normaliser: Any,
    training: dict[str, Any] | None,
) -> bytes:
    """The artefact of a distribution and its numbers."""
    from bss_service.policies import artefact

    distribution, numbers = of_actor
    fields = {**manifest(name, distribution, _hidden(numbers), activation, None), "training": training or {}}
    if normaliser is not None:
        rms = normaliser.obs_rms
        fields["normaliser"] = {"clip": float(normaliser.clip_obs), "epsilon": float(normaliser.epsilon)}
        numbers = {**numbers, "normaliser.mean": rms.mean, "normaliser.variance": rms.var}
    return artefact.write(fields, numbers)


def _of_actor_critic(state: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Distribution and numbers of a policy of PPO or A2C. Raises ValueError where it has parameters of another kind."""
    numbers = _layers(state, "mlp_extractor.policy_net")
    used = {*_names("mlp_extractor.policy_net", len(numbers) // 2), *_linear_names("action_net"), "log_std"}
    _check_used(state, used, ("mlp_extractor.value_net.", "value_net."))
    if "log_std" in state:
        return "gaussian", numbers | _linear(state, "mean", "action_net") | {"log_std": _numpy(state["log_std"])}
    return "categorical", numbers | _linear(state, "logits", "action_net")


def _of_actor(state: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The same of SAC's."""
    numbers = _layers(state, "actor.latent_pi")
    heads = [*_linear_names("actor.mu"), *_linear_names("actor.log_std")]
    _check_used(state, {*_names("actor.latent_pi", len(numbers) // 2), *heads}, ("critic.", "critic_target."))
    numbers |= _linear(state, "mean", "actor.mu") | _linear(state, "log_std", "actor.log_std")
    return "squashed_gaussian", numbers


def _check_used(state: Mapping[str, Any], used: set[str], aside: tuple[str, ...]) -> None:
    """Parameters that are neither used nor of a critic belong to a network that the artefact would leave out."""
    others = sorted(key for key in state if key not in used and not key.startswith(aside))
    if others:
        raise ValueError(
            f"its policy has {others[0]}: an artefact holds the networks of MlpPolicy without an extractor of its own, "
            "of PPO, A2C or SAC without gSDE"
        )


def _names(net: str, layers: int) -> Iterable[str]:
    """Parameters of a Sequential in which an activation follows each layer."""
    return (name for k in range(layers) for name in _linear_names(f"{net}.{2 * k}"))


def _linear_names(module: str) -> tuple[str, str]:
    return f"{module}.weight", f"{module}.bias"


def _layers(state: Mapping[str, Any], net: str) -> dict[str, Any]:
    number = 0
    numbers: dict[str, Any] = {}
    while f"{net}.{2 * number}.weight" in state:
        numbers |= _linear(state, f"layer_{number}", f"{net}.{2 * number}")
        number += 1
    return numbers


def _linear(state: Mapping[str, Any], name: str, module: str) -> dict[str, Any]:
    for parameter in _linear_names(module):
        if parameter not in state:
            raise ValueError(f"its policy has no {parameter}: an artefact holds those of PPO, A2C or SAC without gSDE")
    return {f"{name}.{part}": _numpy(state[f"{module}.{part}"]) for part in ("weight", "bias")}


def _numpy(tensor: Any) -> Any:
    return tensor.detach().cpu().numpy()


def _hidden(numbers: dict[str, Any]) -> list[int]:
    return [len(t) for name, t in numbers.items() if name.startswith("layer_") and name.endswith(".bias")]


def _activation(net: Any) -> str:
    """The activation of a Sequential. Raises ValueError for one that an artefact doesn't know."""
    kinds = {f"{type(module)}" for module in net if not hasattr(module, "weight")}
    return _known_activation(kinds.pop()) if len(kinds) == 1 else "tanh" if not kinds else _known_activation(str(kinds))


def _known_activation(kind: str) -> str:
    """The name of an activation by its class as text."""
    found = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(Tanh|ReLU)'>", kind)
    if not found:
        raise ValueError(
            f"its activation must be Tanh or ReLU, which are those that an artefact knows, got {kind[:200]}"
        )
    return found[1].lower()
