"""From logits to similarity, loss and true-label probability (BSS paper, sections 3.1 and 3.2).

Written once for NumPy arrays and torch tensors: `xp` is the module that owns the arrays (`numpy` or `torch`), so that
the trainer measures on its device with the very formulas that the tests check in NumPy. Only names that both
modules share are used, and nothing here makes a device wait.
"""

from types import ModuleType
from typing import Any

Array = Any  # numpy.ndarray or torch.Tensor
LEAST_DOUBT = 0.05  # 1 − ⟨p, t⟩ is taken for no less: no head is pulled further once it is sure
LEAST_LENGTH = 1e-12  # of an embedding: one of zeros has a cosine of 0 with all
LEAST = 1e30  # −log of the least probability that is told from another


def log_softmax(logits: Array, xp: ModuleType) -> Array:
    """Log-probabilities over the last axis, stable for logits of any size."""
    if (fused := getattr(xp, "log_softmax", None)) is not None:  # one kernel, where the module has one
        return fused(logits, -1)
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


def target_log_probability(log_probabilities: Array, targets: Array, xp: ModuleType) -> Array:
    """Σ_k t_k·log p_k, (..., G), of log-probabilities (..., G, c) and soft labels t (G, c).

    A class without share counts for nothing, also where it is masked out.
    """
    return xp.where(targets == 0, 0.0, targets * log_probabilities).sum(axis=-1)


def smoothed(at_target: Array, log_probabilities: Array, smoothing: float) -> Array:
    """What label smoothing makes of the log-probability of the target, (..., G) (Szegedy et al. 2016, section 7)."""
    return (1 - smoothing) * at_target + smoothing * log_probabilities.mean(axis=-1)


def known_mean(values: Array, is_known: Array, xp: ModuleType) -> Array:
    """Mean over the last axis of the values (..., G, k) that are known (G, k); NaN of a row in which none is."""
    count = is_known.sum(axis=-1)
    return xp.where(is_known, values, 0.0).sum(axis=-1) / xp.where(count == 0, xp.nan, count)


def two_logits(logits: Array, xp: ModuleType) -> Array:
    """The logits −z/2 and z/2 (..., 2) of no and yes that say what one logit z does."""
    return xp.stack([-logits / 2, logits / 2], -1)


def normalised_error(predictions: Array, targets: Array, scale: Array | float, xp: ModuleType) -> Array:
    """Mean over dimensions of ((ŷ − y)/scale)², (..., G), of predictions (..., G, d); targets (G, d) may hold NaN."""
    is_known = ~xp.isnan(targets)
    error = (predictions - xp.where(is_known, targets, 0.0)) / scale
    return known_mean(error * error, is_known, xp)


def agreement(predictions: Array, scale: Array | float, xp: ModuleType) -> Array:
    """Mean over unordered pairs of M ≥ 2 predictions (M, G, d) of exp(−½·mean_d ((ŷ_j − ŷ_k)/scale)²), (G,) in (0, 1].

    What `similarity` is for distributions: the Gaussian kernel is the cosine of two numbers in its feature space.
    """
    count = predictions.shape[0]
    scaled = predictions / scale
    total = 0.0
    for j in range(count - 1):  # a pair at a time: differences of all would take M² times the memory
        apart = scaled[j + 1 :] - scaled[j]
        total = total + xp.exp(-(apart * apart).mean(axis=-1) / 2).sum(axis=0)
    return total / (count * (count - 1) / 2)


def matched_pairs(left: Array, right: Array, temperature: Array | float, xp: ModuleType) -> tuple[Array, Array]:
    """How well pairs of embeddings (G, d) find each other in their batch (Radford et al. 2021, figure 3).

    Returns the log-probability (2, G) with which each left picks its right, and each right its left, by cosines
    over the temperature; and the pairs' cosines (G,).
    """
    cosines = _unit(left) @ _unit(right).T
    rows = xp.arange(left.shape[0], device=cosines.device)
    both = xp.stack([log_softmax(cosines / temperature, xp), log_softmax(cosines.T / temperature, xp)])
    return true_label(both, rows, xp), cosines[rows, rows]


def _unit(vectors: Array) -> Array:
    return vectors / ((vectors * vectors).sum(axis=-1, keepdims=True) ** 0.5 + LEAST_LENGTH)


def similarity(probabilities: Array, xp: ModuleType) -> Array:
    """Correlation criterion (paper, section 3.2): mean cosine over unordered pairs of modalities.

    probabilities: (M, G, c) softmax vectors of the unimodal heads, M ≥ 2. Returns (G,) in [0, 1].

    With unit vectors u_j the pairs need not be visited: ‖Σ u_j‖² = M + 2·Σ_{j<k} u_j·u_k.
    """
    modalities = probabilities.shape[0]
    unit = probabilities / xp.sqrt((probabilities * probabilities).sum(axis=-1, keepdims=True))
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
    return -joint_weight * joint - unimodal_weight * unimodal.sum(axis=0)


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
