"""What a training run came to, as an artefact that a service can run."""

from typing import Any

from bss_service.core.action import ACTION_SCHEMA_HASH, COMPONENTS, DIMENSION, NAMED_ACTIONS
from bss_service.core.evidence.features import SCHEMA_HASH as FEATURE_SCHEMA
from bss_service.core.evidence.posterior import Judge
from bss_service.core.observation import SCHEMA_HASH


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
    """The artefact of a PPO model of stable-baselines3 with an MlpPolicy, and of the VecNormalize around its world.

    Raises ArtefactError where a number is not finite or the network is none that an artefact can hold.
    """
    from bss_service.policies import artefact

    policy = model.policy
    numbers = _layers(policy.mlp_extractor.policy_net)
    if hasattr(policy, "log_std"):
        distribution = "gaussian"
        numbers |= _linear("mean", policy.action_net) | {"log_std": policy.log_std.detach().numpy()}
    else:
        distribution = "categorical"
        numbers |= _linear("logits", policy.action_net)
    fields = manifest(name, distribution, _hidden(numbers), _activation(policy.mlp_extractor.policy_net), None)
    return artefact.write(*_with_normaliser({**fields, "training": training or {}}, numbers, normaliser))


def of_sac(model: Any, normaliser: Any = None, *, name: str = "sac", training: dict[str, Any] | None = None) -> bytes:
    """The artefact of a SAC model of stable-baselines3, and of the VecNormalize around its world."""
    from bss_service.policies import artefact

    actor = model.policy.actor
    numbers = _layers(actor.latent_pi) | _linear("mean", actor.mu) | _linear("log_std", actor.log_std)
    fields = manifest(name, "squashed_gaussian", _hidden(numbers), _activation(actor.latent_pi), None)
    return artefact.write(*_with_normaliser({**fields, "training": training or {}}, numbers, normaliser))


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


def _with_normaliser(
    fields: dict[str, Any], numbers: dict[str, Any], normaliser: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    if normaliser is None:
        return fields, numbers
    scale = {"clip": float(normaliser.clip_obs), "epsilon": float(normaliser.epsilon)}
    rms = normaliser.obs_rms
    return {**fields, "normaliser": scale}, {**numbers, "normaliser.mean": rms.mean, "normaliser.variance": rms.var}


def _layers(net: Any) -> dict[str, Any]:
    dense = [module for module in net if hasattr(module, "weight")]
    return {name: t for k, module in enumerate(dense) for name, t in _linear(f"layer_{k}", module).items()}


def _linear(name: str, module: Any) -> dict[str, Any]:
    return {f"{name}.weight": module.weight.detach().numpy(), f"{name}.bias": module.bias.detach().numpy()}


def _hidden(numbers: dict[str, Any]) -> list[int]:
    return [len(t) for name, t in numbers.items() if name.startswith("layer_") and name.endswith(".bias")]


def _activation(net: Any) -> str:
    from torch import nn

    kinds = {type(module) for module in net if not hasattr(module, "weight")}
    return "relu" if kinds == {nn.ReLU} else "tanh"
