"""How the embeddings of all modalities become one prediction."""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Fusion(nn.Module):
    """M embeddings (g, d), and the unimodal logits where a prediction is made of these -> joint logits (g, c)."""

    def forward(self, embeddings: Sequence[Tensor], unimodal: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError

    def shares(self, embeddings: Sequence[Tensor]) -> list[Tensor] | None:
        """What each modality adds to the joint logits, M tensors (g, c); None where they are no such sum."""
        return None


class Concat(Fusion):
    """One linear layer on the concatenated embeddings."""

    def __init__(self, width: int, modalities: int, classes: int) -> None:
        super().__init__()
        layer = nn.Linear(width * modalities, classes)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, embeddings: Sequence[Tensor], unimodal: Sequence[Tensor]) -> Tensor:
        return F.linear(torch.cat([*embeddings], dim=1), self.weight, self.bias)

    def shares(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        weights = self.weight.chunk(len(embeddings), dim=1)
        bias = self.bias / len(embeddings)
        return [F.linear(e, w, bias) for e, w in zip(embeddings, weights, strict=True)]


class Sum(Fusion):
    """A linear layer for each modality, and their sum."""

    def __init__(self, width: int, modalities: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, classes) for _ in range(modalities))

    def forward(self, embeddings: Sequence[Tensor], unimodal: Sequence[Tensor]) -> Tensor:
        return torch.stack(self.shares(embeddings)).sum(0)

    def shares(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        return [layer(e) for layer, e in zip(self.layers, embeddings, strict=True)]


class Film(Fusion):
    """Feature-wise linear modulation (Perez et al., AAAI 2018): the first modality scales and shifts the others."""

    def __init__(self, width: int, modalities: int, classes: int) -> None:
        super().__init__()
        self.conditions = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(modalities - 1))
        self.out = nn.Linear(width, classes)

    def forward(self, embeddings: Sequence[Tensor], unimodal: Sequence[Tensor]) -> Tensor:
        first, *others = embeddings
        modulated = torch.zeros_like(first)
        for layer, other in zip(self.conditions, others, strict=True):
            scale, shift = layer(first).chunk(2, dim=1)
            modulated = modulated + scale * other + shift
        logits: Tensor = self.out(modulated)
        return logits


class Gated(Fusion):
    """Gated fusion (Kiela et al., AAAI 2018): the first modality opens and closes the dimensions of the others."""

    def __init__(self, width: int, modalities: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(modalities))
        self.out = nn.Linear(width, classes)

    def forward(self, embeddings: Sequence[Tensor], unimodal: Sequence[Tensor]) -> Tensor:
        first, *others = [layer(e) for layer, e in zip(self.layers, embeddings, strict=True)]
        logits: Tensor = self.out(first.sigmoid() * torch.stack(others).sum(0))
        return logits


FUSIONS: Final[Mapping[str, type[Concat] | type[Sum] | type[Film] | type[Gated]]] = {
    "concat": Concat,
    "sum": Sum,
    "film": Film,
    "gated": Gated,
}
