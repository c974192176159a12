"""The posterior of every sample: how likely its label is right, and the part of each modality in its pair.

Two small networks, run in float64 and rounded to float32 where it leaves (core/network.py says why). What they are
trained on is simulated, where the harm is known; a run that they judge may look like none of that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bss_service.core.arrays import Float32, Float64, Floats, Int64
from bss_service.core.evidence.features import FIELDS, MODALITY_FIELDS, Features
from bss_service.core.network import affine, forward, rounded

ROWS: Final = 2**13  # judged at a time: what lies between the layers stays in the cache
OUTCOMES: Final = 3  # the label is right, the rival is, neither is

Layers = Sequence[tuple[Floats, Floats]]  # weights (H_k, H_{k−1}) and biases (H_k,); tanh between them


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of n samples; NaN of one that was not visited yet."""

    right: Float32  # (n,) P(the label is right)
    rival: Float32  # (n,) P(the likeliest other class is the true one)
    wrong_modality: Float32  # (n, U) P(what this modality shows belongs to another sample, or is nothing)

    @property
    def pair(self) -> Float32:
        """P(every modality belongs to the sample), (n,): at most that of the least likely, and taken for it."""
        worst: Float32 = self.wrong_modality.max(axis=1, initial=0.0)
        return 1 - worst

    def rows(self, which: slice | Int64) -> "Evidence":
        """Of some of the samples."""
        return Evidence(self.right[which], self.rival[which], self.wrong_modality[which])


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Reads evidence from features.

    label: layers from `FIELDS` to 3 logits, as `OUTCOMES`. modality: from `FIELDS` and `MODALITY_FIELDS`, the same for
    every modality, to one logit. Raises ValueError naming the network whose layers do not fit.
    """

    label: Layers
    modality: Layers
    calibration_error: float = 0.1  # by which shares of its probabilities may be wrong, as far as was measured

    def __post_init__(self) -> None:
        check_layers("label", self.label, len(FIELDS), OUTCOMES)
        check_layers("modality", self.modality, len(FIELDS) + len(MODALITY_FIELDS), 1)

    def judge(self, samples: int, features: Features) -> Evidence:
        """The evidence of all n samples of a job."""
        unimodal = features.of_modality.shape[1]
        evidence = Evidence(unknown(samples), unknown(samples), unknown(samples, unimodal))
        for start in range(0, len(features.visited), ROWS):
            rows = slice(start, start + ROWS)
            visited, of_sample = features.visited[rows], features.of_sample[rows]
            outcomes = _softmax(run(self.label, of_sample))
            evidence.right[visited] = rounded(outcomes[:, 0])
            evidence.rival[visited] = rounded(outcomes[:, 1])
            for head in range(unimodal):
                beside = np.concatenate([of_sample, features.of_modality[rows, head]], axis=1)
                evidence.wrong_modality[visited, head] = rounded(sigmoid(run(self.modality, beside)[:, 0]))
        return evidence


def check_layers(name: str, layers: Layers, inputs: int, outputs: int) -> None:
    """Raises ValueError, naming the network, where layers don't lead from so many inputs to so many outputs."""
    widths = [inputs]
    for weight, bias in layers:
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.shape[1] != widths[-1]:
            raise ValueError(
                f"{name} must continue {widths[-1]} inputs, got a weight {weight.shape}, bias {bias.shape}"
            )
        widths.append(len(bias))
    if len(widths) == 1 or widths[-1] != outputs:
        raise ValueError(f"{name} must have {outputs} outputs, got {widths[-1] if len(widths) > 1 else 'no layer'}")


def run(layers: Layers, values: Floats) -> Float64:
    """The last layer's outputs, (k, O), of values (k, I)."""
    return affine(forward(values, layers[:-1], "tanh"), *layers[-1])


def _softmax(logits: Float64) -> Float64:
    weights: Float64 = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def sigmoid(logits: Float64) -> Float64:
    """Of the same shape, in [0, 1]."""
    probability: Float64 = np.exp(-np.logaddexp(0.0, -logits))  # no overflow at either end
    return probability


def unknown(*shape: int) -> Float32:
    """Nothing known yet: NaN."""
    return np.full(shape, np.nan, dtype=np.float32)
