"""A late-fusion network with a head for each modality and one for all of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer_client.reference.data import Data
from trainer_client.reference.encoders import WIDTH, Choice, make_encoder
from trainer_client.reference.fusion import FUSIONS, Fusion


class Outputs(NamedTuple):
    """What the network makes of g samples."""

    unimodal: list[Tensor]  # M logits (g, c)
    joint: Tensor  # (g, c), logits
    features: list[Tensor]  # M embeddings (g, d) of one width


class LateFusion(nn.Module):
    """Encodes each modality by itself, classifies each embedding, and classifies what fusion makes of all of them.

    Small encoders follow from the data: a CNN for images (c, h, w), a 1-D CNN for signals (c, t), an MLP for vectors
    (d,), an embedding bag for int64 token ids (L,) padded with 0. Of films (c, t, h, w) each frame goes
    through the CNN.
    """

    joint: Fusion

    def __init__(
        self, encoders: Mapping[str, nn.Module], classes: int, fusion: str = "concat", width: int = WIDTH
    ) -> None:
        """width: of every encoder's embedding."""
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name in encoders})
        self.joint = FUSIONS[fusion](width, len(encoders), classes)

    def forward(self, inputs: Sequence[Tensor]) -> Outputs:
        """inputs: M tensors (g, …) in the order of the modalities."""
        features = [encoder(x) for encoder, x in zip(self.encoders.values(), inputs, strict=True)]
        unimodal = [head(e) for head, e in zip(self.heads.values(), features, strict=True)]
        return Outputs(unimodal, self.joint(features, unimodal), features)


def build_model(
    dataset: Data, seed: int, fusion: str = "concat", encoders: Mapping[str, str] | None = None
) -> LateFusion:
    """The network for a data set, what is random of its weights drawn from `seed` alone.

    encoders: by modality, as `resnet18` or `bert:FOLDER`; the others are small. Where encoders differ in width, a
    linear layer takes the wider ones to that of the narrowest. Raises ValueError for a fusion that is not concat, sum,
    film or gated, for a modality or an encoder that there is not, and for one that can't take the modality's tensors.
    """
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
    chosen = {name: Choice.parse(text) for name, text in (encoders or {}).items()}
    for name in chosen:
        if name not in dataset.modalities:
            raise ValueError(f"encoders must be of {', '.join(dataset.modalities)}, got one of {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = {
            name: make_encoder(chosen.get(name, Choice("small")), example, _vocabulary(dataset, name, example))
            for name, example in zip(dataset.modalities, dataset.inputs(dataset.indices("train")[:1]), strict=True)
        }
        width = min(own for _, own in made.values())
        narrowed = {
            name: encoder if own == width else nn.Sequential(encoder, nn.Linear(own, width))
            for name, (encoder, own) in made.items()
        }
        return LateFusion(narrowed, len(dataset.classes), fusion, width)


def _vocabulary(dataset: Data, modality: str, example: Tensor) -> int:
    return 0 if example.is_floating_point() else dataset.vocabulary(modality)
