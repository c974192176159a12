"""What a network is worth on a part of a data set, and how evenly its modalities bear that."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bss_service.core.arrays import Float64, Floats, Int64
from trainer_client.reference.data import Data
from trainer_client.reference.evaluation import Logits, predicting, to_device
from trainer_client.reference.model import LateFusion, Outputs
from trainer_client.reference.rivals.base import shapley, subsets_of


@torch.no_grad()
def predictions(model: LateFusion, dataset: Data, split: str, device: torch.device, logits: Logits = "joint") -> Int64:
    """The class of each sample of a split, (k,), by the logits that predict; whether it trains is left as it was."""
    was_training = model.training
    unimodal, joint, _ = _outputs(model, dataset, split, device)
    model.train(was_training)
    classes: Int64 = predicting(unimodal, joint, logits).argmax(1).numpy()
    return classes


@torch.no_grad()
def figures(
    model: LateFusion, dataset: Data, split: str, device: torch.device, logits: Logits = "joint"
) -> dict[str, Any]:
    """Of the logits that predict: accuracy, macro-F1, mean average precision (mAP). Of heads: accuracies and their gap,
    `ratio` Σp_u(y)/Σp_v(y) of the strongest modality over the weakest (Peng et al. 2022), `difference` the mean
    |p_u(y) − p_v(y)| over samples and pairs of modalities, `shapley` what each modality adds to the accuracy.

    p_u(y) is the probability of the label by the head of modality u. Shapley values are of the accuracy with the
    embeddings and the logits of absent modalities at 0; with all of them absent it counts as 0.
    """
    labels = dataset.labels[dataset.indices(split)]
    unimodal, joint, features = _outputs(model, dataset, split, device)
    said = predicting(unimodal, joint, logits)
    names = list(dataset.modalities)
    heads = {name: float((z.argmax(1).numpy() == labels).mean()) for name, z in zip(names, unimodal, strict=True)}
    own = torch.stack([z.softmax(1) for z in unimodal]).numpy()[:, np.arange(len(labels)), labels]  # (M, n)
    return {
        "accuracy": float((said.argmax(1).numpy() == labels).mean()),
        "macro_f1": macro_f1(said.argmax(1).numpy(), labels),
        "map": mean_average_precision(said.softmax(1).numpy(), labels),
        "heads": heads,
        "gap": max(heads.values()) - min(heads.values()),
        "ratio": float(own.sum(1).max() / max(own.sum(1).min(), 1e-9)),
        "difference": float(np.mean([np.abs(own[a] - own[b]).mean() for a, b in combinations(range(len(own)), 2)])),
        "shapley": dict(zip(names, _shapley(model, unimodal, features, labels, device, logits), strict=True)),
    }


def macro_f1(predicted: Int64, labels: Int64) -> float:
    """Mean over the classes that occur in the labels of 2·TP/(2·TP + FP + FN); both (n,)."""
    of_class = []
    for c in np.unique(labels):
        hits = np.sum((predicted == c) & (labels == c))
        of_class.append(2 * hits / (np.sum(predicted == c) + np.sum(labels == c)))
    return float(np.mean(of_class))


def mean_average_precision(probabilities: Floats, labels: Int64) -> float:
    """Mean over the classes that occur in the labels of the average precision of ranking by their probability.

    probabilities: (n, c); labels: (n,). Average precision is the mean, over the samples of the class, of the precision
    at their rank; samples of one probability share the last of their ranks.
    """
    return float(np.mean([_average_precision(probabilities[:, c], labels == c) for c in np.unique(labels)]))


def _average_precision(scores: Floats, positive: "np.ndarray[Any, np.dtype[np.bool_]]") -> float:
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.searchsorted(-scores[order], -scores[positive], side="right") - 1  # rank of the last of each one's equals
    precision: Float64 = hits[last] / (last + 1)
    return float(precision.mean())


def _shapley(
    model: LateFusion,
    unimodal: Sequence[Tensor],
    features: Sequence[Tensor],
    labels: Int64,
    device: torch.device,
    logits: Logits,
) -> list[float]:
    worth = {}
    for kept in subsets_of(len(features)):
        present = [torch.tensor(float(k in kept)) for k in range(len(features))]
        embeddings = [(e * there).to(device) for e, there in zip(features, present, strict=True)]
        own = [(z * there).to(device) for z, there in zip(unimodal, present, strict=True)]
        right = predicting(own, model.joint(embeddings, own), logits).argmax(1).cpu().numpy() == labels
        worth[kept] = torch.tensor(right.mean())
    return [float(value) for value in shapley(worth, len(features))]


def _outputs(model: LateFusion, dataset: Data, split: str, device: torch.device) -> Outputs:
    """Of all samples of a split, on the CPU, in evaluation mode."""
    model.eval()
    indices = dataset.indices(split)
    parts = []
    for part in np.array_split(indices, range(dataset.at_once, len(indices), dataset.at_once)):
        unimodal, joint, features = model(to_device(dataset, part, device)[0])
        parts.append([*unimodal, joint, *features])
    whole = [torch.cat(of_one).float().cpu() for of_one in zip(*parts, strict=True)]
    count = len(dataset.modalities)
    return Outputs(whole[:count], whole[count], whole[count + 1 :])
