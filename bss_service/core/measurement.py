"""From logits to similarity, loss and true-label probability (BSS paper, sections 3.1 and 3.2).

Written once for NumPy arrays and torch tensors: `xp` is the module that owns the arrays (`numpy` or `torch`), so that
the trainer measures on its device with the very formulas that the tests check in NumPy. Only names that both
modules share are used, and nothing here makes a device wait.
"""

from types import ModuleType
from typing import Any

Array = Any  # numpy.ndarray or torch.Tensor
LEAST_DOUBT = 0.05  # 1 − ⟨p, t⟩ is taken for no less: no head is pulled further once it is sure
LEAST = 1e30  # −log of the least probability that is told from another


def log_softmax(logits: Array, xp: ModuleType) -> Array:
    """Log-probabilities over the last axis, stable for logits of any size."""
    shifted = logits - xp.amax(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))


def true_label(values: Array, labels: Array, xp: ModuleType) -> Array:
    """Pick each sample's value at its label: values (..., G, c), labels (G,) int64 in [0, c) -> (..., G)."""
    return values[..., xp.arange(labels.shape[0], device=labels.device), labels]


def usable_labels(labels: Array, classes: int, ignore_index: int, xp: ModuleType) -> tuple[Array, Array, Array]:
    """Of labels (G,), int64 of any value, those that can be looked up at, in [0, c); and is_ignored, is_outside (G,).

    A label outside [0, c) becomes the nearest class, so that no lookup fails or reads another sample's value: what is
    computed of a row that is ignored or outside means nothing. One that is ignored may be outside too.
    """
    inside = xp.clip(labels, 0, classes - 1)
    return inside, labels == ignore_index, inside != labels


def similarity(probabilities: Array, xp: ModuleType) -> Array:
    """Correlation criterion (paper, section 3.2): mean cosine over unordered pairs of modalities.

    probabilities: (M, G, c) softmax vectors of the unimodal heads, M ≥ 2. Returns (G,) in [0, 1].

    With unit vectors u_j the pairs need not be visited: ‖Σ u_j‖² = M + 2·Σ_{j<k} u_j·u_k.
    """
    modalities = probabilities.shape[0]
    unit = probabilities / ((probabilities * probabilities).sum(axis=-1, keepdims=True) ** 0.5)
    resultant = unit.sum(axis=0)
    squared = (resultant * resultant).sum(axis=-1)
    return xp.clip((squared - modalities) / (modalities * (modalities - 1)), 0.0, 1.0)


def multimodal_loss(
    joint_log_probabilities: Array,
    unimodal_log_probabilities: Array,
    labels: Array,
    xp: ModuleType,
    *,
    joint_weight: float,
    unimodal_weight: float,
) -> Array:
    """Information criterion: the training loss ℓ_total of each sample, (G,).

    joint_log_probabilities: (G, c); unimodal_log_probabilities: (M, G, c); labels: (G,) int64.
    """
    joint = true_label(joint_log_probabilities, labels, xp)
    unimodal = true_label(unimodal_log_probabilities, labels, xp)
    return total_loss(joint, unimodal, joint_weight=joint_weight, unimodal_weight=unimodal_weight)


def total_loss(joint: Array, unimodal: Array, *, joint_weight: float, unimodal_weight: float) -> Array:
    """ℓ_total (G,) of the true label's log-probabilities by the joint head (G,) and the unimodal ones (M, G).

    ℓ = joint_weight·CE_joint + unimodal_weight·Σ_j CE_j. The paper's form is (1−λ, λ); the released code uses (1, 1) on
    Kinetics-Sounds and (0.1, 0.9) on CREMA-D.
    """
    return -(joint_weight * joint + unimodal_weight * unimodal.sum(axis=0))


def pull_term(agreement: Array, held: Array, xp: ModuleType) -> Array:
    """Early-learning regularisation of each sample, (…): −⟨p, t⟩/(1 − ⟨p, t⟩), the denominator held constant.

    agreement: ⟨p, t⟩ of the softmax p now and the moving average t of those so far; held: the same without a slope.
    So the slope by the logits is that of log(1 − ⟨p, t⟩) (Liu et al. 2020, equation 3),
    −p⊙(t − ⟨p, t⟩)/(1 − ⟨p, t⟩), which draws the softmax towards what it was, and it stays bounded.
    """
    return -agreement / _doubt(held, xp)


def pull_slope(probabilities: Array, before: Array, axis: int, xp: ModuleType) -> Array:
    """Less the slope of `pull_term` by the logits: p⊙(t − ⟨p, t⟩)/(1 − ⟨p, t⟩), 0 where t is; classes lie on `axis`."""
    agreement = (probabilities * before).sum(axis=axis, keepdims=True)
    return probabilities * (before - agreement) / _doubt(agreement, xp)


def _doubt(agreement: Array, xp: ModuleType) -> Array:
    return xp.clip(1 - agreement, LEAST_DOUBT, 1.0)


def label_and_rival(log_probabilities: Array, labels: Array, xp: ModuleType) -> dict[str, Array]:
    """What all heads together say of each label and of its likeliest rival, by the name of the signal.

    log_probabilities: (H, G, c) of all heads, c ≥ 2; labels: (G,) int64 in [0, c). Their sum over heads is that of the
    logits but for a constant a sample, so that its softmax and margins are those of the summed logits. The rival is the
    class other than the label with the highest sum. Returns `summed_probability`, `margin` (Pleiss et al. 2020, section
    3, of the summed logits), `other_class` (int64) and `summed_other_probability`, each (G,), `other_probability`
    (G, H), of the rival by each head, and `predicted_class` (G, H), int64.
    """
    total = xp.clip(log_probabilities.sum(axis=0), -LEAST, LEAST)  # a class that is masked out stays above the label
    classes = xp.arange(total.shape[-1], device=labels.device)
    rival = xp.argmax(xp.where(classes == labels[:, None], -xp.inf, total), axis=-1)
    logs = log_softmax(total, xp)
    of_label, of_rival = true_label(logs, labels, xp), true_label(logs, rival, xp)
    return {
        "summed_probability": xp.exp(of_label),
        "margin": of_label - of_rival,
        "other_class": rival,
        "summed_other_probability": xp.exp(of_rival),
        "other_probability": xp.exp(true_label(log_probabilities, rival, xp)).T,
        "predicted_class": xp.argmax(log_probabilities, axis=-1).T,
    }
