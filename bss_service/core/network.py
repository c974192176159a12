"""A trained policy's network and the distribution over actions that it gives, in NumPy.

Everything is computed in float64 and rounded to float32 where it leaves: the last bits of a sum depend on the
processor, and a job whose policy is asked again on another machine must get the same choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from bss_service.core.arrays import Float32, Float64, Floats

Activation = Literal["tanh", "relu"]
SQUASHED_LOG_STD: Final = (-20.0, 2.0)  # to which stable-baselines3 clips that of SAC
_LOG_2PI: Final = float(np.log(2 * np.pi))


def normalised(observation: Floats, mean: Floats, variance: Floats, *, epsilon: float, clip: float) -> Float64:
    """clip((o − mean)/√(variance + ε), ±clip), of the shape of `observation`, (…, D)."""
    scaled = (observation.astype(np.float64) - mean) / np.sqrt(variance.astype(np.float64) + epsilon)
    clipped: Float64 = np.clip(scaled, -clip, clip)
    return clipped


def forward(observation: Floats, layers: Sequence[tuple[Floats, Floats]], activation: Activation) -> Float64:
    """The last hidden layer, (…, H), of observations (…, D), which it is itself where there are no layers.

    Each layer is a weight (H_k, H_{k−1}) and a bias (H_k,).
    """
    hidden: Float64 = observation.astype(np.float64)
    for weight, bias in layers:
        hidden = affine(hidden, weight, bias)
        hidden = np.tanh(hidden) if activation == "tanh" else np.maximum(hidden, 0)
    return hidden


def affine(hidden: Float64, weight: Floats, bias: Floats) -> Float64:
    """W·h + b, (…, A)."""
    with np.errstate(over="ignore", invalid="ignore"):  # what isn't finite is refused as a whole, by `rounded`
        result: Float64 = hidden @ weight.T.astype(np.float64) + bias
    return result


def rounded(values: Float64) -> Float32:
    """The values as float32; raises ValueError where one is not finite."""
    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    if not np.isfinite(result).all():
        raise ValueError(f"the network gave {values[~np.isfinite(result)][0]}, which is no finite float32")
    return result


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Independent normal distributions, one a component of the action."""

    mean: Float32  # (…, A)
    log_std: Float32  # (A,) or (…, A)

    def mode(self) -> Float32:
        """The likeliest action, (…, A)."""
        return self.mean

    def draw(self, rng: np.random.Generator) -> tuple[Float32, Float64]:
        """An action (…, A), not clipped, and the logarithm of its density (…)."""
        action = self._draw(rng)
        return action, self.log_density(action)

    def log_density(self, action: Floats) -> Float64:
        """Σ −½((a − μ)/σ)² − ln σ − ½ ln 2π over the last axis of `action`, (…, A)."""
        log_std = self.log_std.astype(np.float64)
        scaled = (action.astype(np.float64) - self.mean) / np.exp(log_std)
        density: Float64 = (-0.5 * scaled**2 - log_std - 0.5 * _LOG_2PI).sum(axis=-1)
        return density

    def _draw(self, rng: np.random.Generator) -> Float32:
        noise = rng.standard_normal(self.mean.shape)
        return rounded(self.mean + np.exp(self.log_std.astype(np.float64)) * noise)


@dataclass(frozen=True, slots=True)
class SquashedGaussian:
    """tanh(u) of a normally distributed u; densities are those of the action, not of u."""

    unbounded: Gaussian  # of u

    def mode(self) -> Float32:
        """tanh(μ), (…, A): the action that stable-baselines3 takes for the deterministic one."""
        return rounded(np.tanh(self.unbounded.mean.astype(np.float64)))

    def draw(self, rng: np.random.Generator) -> tuple[Float32, Float64]:
        """An action (…, A) in [−1, 1], and the logarithm of its density (…)."""
        u = self.unbounded._draw(rng)
        return rounded(np.tanh(u.astype(np.float64))), self.log_density(u)

    def log_density(self, u: Floats) -> Float64:
        """Of the action tanh(u): ln p(u) − Σ ln(1 − tanh²u).

        Haarnoja et al. 2018, appendix C; ln(1 − tanh²u) = 2(ln 2 − u − ln(1 + e^−2u)) does not underflow.
        """
        wide = u.astype(np.float64)
        corrections = 2 * (np.log(2) - wide - np.logaddexp(0, -2 * wide))
        density: Float64 = self.unbounded.log_density(wide) - corrections.sum(axis=-1)
        return density


@dataclass(frozen=True, slots=True)
class Categorical:
    """One of K actions, by number."""

    logits: Float32  # (…, K)

    def mode(self) -> int:
        """The likeliest action, for logits (K,); of equal ones the first."""
        return int(self.logits.argmax())

    def draw(self, rng: np.random.Generator) -> tuple[int, float]:
        """An action and the logarithm of its probability, for logits (K,)."""
        logs = self.log_probabilities()
        cumulated = np.cumsum(np.exp(logs))
        drawn = int(np.searchsorted(cumulated, rng.random() * cumulated[-1], side="right"))
        action = min(drawn, len(logs) - 1)  # a number next to 1 may be rounded up to the sum
        return action, float(logs[action])

    def log_probabilities(self) -> Float64:
        """ln softmax, (…, K)."""
        shifted = self.logits.astype(np.float64) - self.logits.max(axis=-1, keepdims=True)
        logs: Float64 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return logs


Distribution = Gaussian | SquashedGaussian | Categorical
