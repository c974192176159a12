"""Copies of a data set made worse on purpose: wrong labels, wrong pairs, a bad sensor."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .dataset import Array, Dataset, Flags, Indices


@dataclass(frozen=True, eq=False)
class Corruption:
    """A corrupted copy of a data set and which of its samples were chosen, training samples all of them."""

    dataset: Dataset
    label_is_noisy: Flags  # (n,) the label was drawn at random, though it may be the true one again
    label_is_flipped: Flags  # (n,) the label is the class after the one it was
    is_mispaired: Flags  # (n,) every modality but the first is that of another sample
    is_blank: Flags  # (n,) every modality but the first holds zeros


def corrupt(
    dataset: Dataset,
    *,
    noisy_labels: float = 0.0,
    flipped_labels: float = 0.0,
    mispaired: float = 0.0,
    blank: float = 0.0,
    modality_noise: Mapping[str, float] | None = None,
    seed: int,
) -> Corruption:
    """Corrupt a copy of a data set; the same seed gives the same copy, a larger share the same and more.

    Shares are of the training samples, rounded to whole ones. `noisy_labels`: get a label drawn uniformly from all
    classes, so some keep theirs by chance. `flipped_labels`: get the class after their own, the first after the last:
    noise that does not average out. `mispaired`: get the second and later modalities of another training sample; the
    chosen pass them on in a ring, and a single chosen one takes those of a sample that keeps its own. `blank`: the
    second and later modalities hold zeros, as those of a sensor that was off. `modality_noise`: for features the
    standard deviation of added Gaussian noise, for token ids the share of tokens replaced by tokens of other samples,
    in every split, since a sensor that is bad in training is as bad in use. `dataset` is left as it is; the copy may
    share arrays with it. Raises ValueError naming argument and value.
    """
    _check_share("noisy_labels", noisy_labels)
    _check_share("flipped_labels", flipped_labels)
    _check_share("mispaired", mispaired)
    _check_share("blank", blank)
    noise = dict(modality_noise or {})
    _check_noise(noise, dataset)
    label_rng, pair_rng, *modality_rngs, flip_rng, blank_rng = np.random.default_rng(seed).spawn(
        4 + len(dataset.modalities)
    )
    training = dataset.indices("train")
    labels, label_is_noisy = _redraw_labels(dataset, training, noisy_labels, label_rng)
    label_is_flipped = _chosen(len(dataset), training, flipped_labels, flip_rng)
    labels = np.where(label_is_flipped, (labels + 1) % len(dataset.classes), labels)
    is_blank = _chosen(len(dataset), training, blank, blank_rng)
    partners = _partners(len(dataset), training, mispaired, pair_rng)
    modalities = _blanked(_pair(dataset.modalities, partners), is_blank)
    for (name, values), rng in zip(modalities.items(), modality_rngs, strict=True):
        modalities[name] = _add_noise(values, noise.get(name, 0.0), rng)
    corrupted = replace(dataset, labels=labels, modalities=modalities)
    is_mispaired = partners != np.arange(len(dataset))
    return Corruption(corrupted, label_is_noisy, label_is_flipped, is_mispaired, is_blank)


def _check_share(argument: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{argument} must be a share from 0 to 1, got {share}")


def _check_noise(noise: Mapping[str, float], dataset: Dataset) -> None:
    for name, amount in noise.items():
        if name not in dataset.modalities:
            choices = ", ".join(dataset.modalities)
            raise ValueError(f"modality_noise must name modalities ({choices}), got {name!r}")
        if dataset.modalities[name].dtype == np.int64:
            _check_share(f"modality_noise[{name!r}]", amount)
        elif not 0 <= amount < np.inf:
            raise ValueError(f"modality_noise[{name!r}] must be finite and at least 0, got {amount}")


def _redraw_labels(
    dataset: Dataset, training: Indices, share: float, rng: np.random.Generator
) -> tuple[Indices, Flags]:
    """Labels (n,) with the share redrawn, and which (n,) those are."""
    chosen = rng.permutation(training)[: round(share * len(training))]
    labels = dataset.labels.copy()
    labels[chosen] = rng.integers(len(dataset.classes), size=len(training))[: len(chosen)]
    is_chosen = np.zeros(len(dataset), bool)
    is_chosen[chosen] = True
    return labels, is_chosen


def _chosen(n: int, training: Indices, share: float, rng: np.random.Generator) -> Flags:
    """Flags (n,) of a share of the training samples."""
    flags = np.zeros(n, bool)
    flags[rng.permutation(training)[: round(share * len(training))]] = True
    return flags


def _blanked(modalities: dict[str, Array], is_blank: Flags) -> dict[str, Array]:
    if not is_blank.any():
        return modalities
    first, *later = modalities
    blanked = {name: modalities[name].copy() for name in later}
    for values in blanked.values():
        values[is_blank] = 0
    return {first: modalities[first]} | blanked


def _partners(n: int, training: Indices, share: float, rng: np.random.Generator) -> Indices:
    """For each of n samples the one whose second and later modalities it gets, itself if not chosen."""
    order = rng.permutation(training)
    count = round(share * len(training))
    if count and len(training) < 2:
        raise ValueError(f"mispaired must be 0 with one training sample, got {share}")
    partners = np.arange(n)
    partners[order[:count]] = order[1:2] if count == 1 else np.roll(order[:count], -1)
    return partners


def _pair(modalities: Mapping[str, Array], partners: Indices) -> dict[str, Array]:
    first, *later = modalities
    return {first: modalities[first]} | {name: modalities[name][partners] for name in later}


def _add_noise(values: Array, amount: float, rng: np.random.Generator) -> Array:
    if amount == 0:
        return values
    if values.dtype == np.int64:
        return _replace_tokens(values, amount, rng)
    noisy: Array = values + np.float32(amount) * rng.standard_normal(values.shape, np.float32)
    return noisy


def _replace_tokens(ids: Array, share: float, rng: np.random.Generator) -> Array:
    """Token ids (n, L) in which a share of the tokens, rounded, are tokens of other samples; 0 stays 0."""
    places = np.flatnonzero(ids)
    held = np.count_nonzero(ids, axis=1)
    start = np.cumsum(held) - held  # places[start[i] : start[i] + held[i]] are those of sample i
    chosen = rng.permutation(places)[: round(share * len(places))]
    own = chosen // ids.shape[1]
    source = rng.integers(len(places) - held[own])
    source += np.where(source >= start[own], held[own], 0)
    replaced = ids.copy()
    replaced.flat[chosen] = ids.flat[places[source]]
    return replaced
