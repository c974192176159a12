"""Unimodal heads for a model that has none: small probes on what its encoders give, which it never notices."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from trainer_client.logits.forms import form_of
from trainer_client.logits.measurement import Measured, measure, read

RATE: Final = 1e-2  # of Adam, on features of unit variance

Pool = Callable[[Any], Tensor]


def pooled(output: Any) -> Tensor:
    """Features (g, d) of an encoder's output: (g, d), the mean over places of (g, T, d), over pixels of (g, d, …, …).

    Of a tuple or list the first is taken, of Hugging Face's outputs `pooler_output` or `last_hidden_state`. Raises
    TypeError for anything else.
    """
    for name in ("pooler_output", "last_hidden_state"):
        if isinstance(getattr(output, name, None), Tensor):
            return pooled(getattr(output, name))
    if isinstance(output, tuple | list) and output:
        return pooled(output[0])
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 2:
        raise TypeError(f"pool must be given for an encoder whose output is {form_of(output)}, not features (g, d)")
    return output.mean(1) if output.ndim == 3 else output.flatten(2).mean(2) if output.ndim > 3 else output


class UnimodalProbes:
    """A linear classifier on each encoder's detached output, trained beside the model by an optimiser of its own.

    encoders: by modality in the job's order, the module whose output is that modality's features; one is enough.
    classes: c. pool: makes features (g, d) of an encoder's output, see `pooled`.

    They see what the model's own forward pass computes, by forward hooks: no other pass, and the model's gradients,
    weights and random numbers are bit for bit those that it has without. They start from zeros, on features
    standardised sample by sample, so that no random number is drawn for them. Where an encoder runs more than once in a
    pass, the last counts. Under DistributedDataParallel each rank's probes learn from its own samples, and encoders are
    those of the module inside.

        probes = UnimodalProbes({"audio": model.audio, "video": model.video}, classes=10)
        ...
        sampler.feedback(index, probes.measure(joint_logits, labels))  # after the step, or before
    """

    def __init__(
        self, encoders: Mapping[str, nn.Module], classes: int, *, learning_rate: float = RATE, pool: Pool = pooled
    ) -> None:
        if not encoders or classes < 2:
            raise ValueError(f"encoders must be at least one, and classes 2, got {list(encoders)} and {classes}")
        self._names, self._classes, self._pool, self._rate = list(encoders), classes, pool, learning_rate
        self._features: dict[str, Tensor] = {}  # (g, d) of the latest pass
        self._probes: dict[str, _Probe] = {}
        self._hooks = [encoder.register_forward_hook(self._keeper(name)) for name, encoder in encoders.items()]

    def measure(self, joint_logits: Tensor, labels: Tensor, **options: Any) -> Measured:
        """The signals of a training step, and a step of the probes on its samples.

        joint_logits: (g, c), of the model; labels: (g,) or soft (g, c), and options: as for `measure`, whose signals it
        gives, with the probes as the unimodal heads, before their step. The loss is that of the joint head, which is
        all that the model is trained by.
        """
        logits = self.logits(joint_logits.device)
        measured = measure(logits, joint_logits, labels, **{"unimodal_weight": 0.0, "joint_weight": 1.0, **options})
        self._learn(labels, options.get("ignore_index", -100))
        return measured

    @torch.no_grad()
    def logits(self, device: torch.device | None = None) -> list[Tensor]:
        """What each probe says of the samples of the model's latest pass, (g, c) each; for validation.

        device: of these; None: the features' own. Raises RuntimeError naming an encoder that has not run.
        """
        logits = [self._probe(name)(self._seen(name)) for name in self._names]
        return [values if device is None else values.to(device, non_blocking=True) for values in logits]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {name: probe.state_dict() for name, probe in self._probes.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was. Raises ValueError for other modalities or classes."""
        if state and sorted(state) != sorted(self._names):
            raise ValueError(f"modalities must be {sorted(self._names)}, got {sorted(state)}")
        for name, of_probe in state.items():
            classes, width = of_probe["weight"].shape
            if classes != self._classes:
                raise ValueError(f"classes must be {self._classes}, got {classes} of {name}")
            self._probes[name] = _Probe(width, classes, self._rate, of_probe["weight"].device)
            self._probes[name].load_state_dict(of_probe)

    def close(self) -> None:
        """Take the hooks off the encoders."""
        for hook in self._hooks:
            hook.remove()
        self._features.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keeper(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            with torch.no_grad():
                features = self._pool(output)
                # Of half precision and of inference tensors, which no gradient may be taken through, a copy.
                self._features[name] = features.detach().float().clone()

        return keep

    def _seen(self, name: str) -> Tensor:
        if name not in self._features:
            raise RuntimeError(f"the encoder of {name} has not run: call the model before, on the same samples")
        return self._features[name]

    def _probe(self, name: str) -> "_Probe":
        features = self._seen(name)
        if name not in self._probes:
            self._probes[name] = _Probe(features.shape[1], self._classes, self._rate, features.device)
        return self._probes[name].on(features.device)

    def _learn(self, labels: Tensor, ignore_index: int) -> None:
        for name in self._names:
            self._probe(name).learn(self._seen(name), labels, ignore_index)


class _Probe:
    """One of them: a linear map of standardised features, with an optimiser."""

    def __init__(self, width: int, classes: int, rate: float, device: torch.device) -> None:
        self.weight = torch.zeros(classes, width, device=device, requires_grad=True)
        self.bias = torch.zeros(classes, device=device, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.weight, self.bias], lr=rate)

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (g, c) of features (g, d)."""
        with _plain(features.device):
            standard = nn.functional.layer_norm(features, features.shape[1:])
            return nn.functional.linear(standard, self.weight, self.bias)

    def learn(self, features: Tensor, labels: Tensor, ignore_index: int) -> None:
        """A step on the mean cross-entropy of the samples that have a usable label."""
        with torch.enable_grad(), _plain(features.device):
            logits = self(features)
            known = read([], logits, labels.to(features.device, non_blocking=True), ignore_index)
            losses = -known.at_target[0]
            if known.unknown is None:
                loss = losses.mean()
            else:
                is_unknown = known.unknown.either
                loss = losses.masked_fill(is_unknown, 0.0).sum() / (~is_unknown).sum().clamp(min=1)
            self.weight.grad, self.bias.grad = torch.autograd.grad(loss, [self.weight, self.bias])
        self.optimiser.step()

    def on(self, device: torch.device) -> Self:
        """It, where the features are."""
        if self.weight.device != device:
            with torch.no_grad():
                self.weight.data, self.bias.data = self.weight.to(device), self.bias.to(device)
            self.optimiser.load_state_dict(self.optimiser.state_dict())
        return self

    def state_dict(self) -> dict[str, Any]:
        return {
            "weight": self.weight.detach().clone(),
            "bias": self.bias.detach().clone(),
            "optimiser": deepcopy(self.optimiser.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            self.weight.copy_(state["weight"])
            self.bias.copy_(state["bias"])
        self.optimiser.load_state_dict(deepcopy(state["optimiser"]))


def _plain(device: torch.device) -> AbstractContextManager[Any]:
    """Single precision, whatever the loop computes in."""
    return torch.autocast(device.type, enabled=False)
