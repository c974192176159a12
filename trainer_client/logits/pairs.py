"""What is measured of pairs of embeddings that are to find each other in their batch."""

import torch
from torch import Tensor

from bss_service.core import measurement as formulas
from trainer_client.logits.forms import form_of


@torch.no_grad()
def measure_pairs(left: Tensor, right: Tensor, *, temperature: Tensor | float = 0.07) -> dict[str, Tensor]:
    """`loss` (g,), `probability` (g, 3) and `similarity` (g,) of contrastive training of two modalities, float32.

    left, right: embeddings (g, d) of the first and second modality of the same samples, floating, of any length;
    temperature: what cosines are divided by, a number or a tensor () such as 1 / model.logit_scale.exp().

    The loss is the mean of both directions' cross-entropies, as in CLIP; the probability that with which the left finds
    its right, the right its left, and the geometric mean of both, in place of the unimodal heads' and the joint one's;
    the similarity the pair's cosine. A wrong pair has a low one and a high loss. All depend on what else is in the
    batch; a sample that comes twice is its own rival, which policies with coverage "epoch" avoid.

    A pair has no class, so that nothing can be read of wrong pairs but by these. Raises TypeError or ValueError naming
    an argument of another form.
    """
    for name, embeddings in (("left", left), ("right", right)):
        if not isinstance(embeddings, Tensor):
            raise TypeError(f"{name} must be a tensor (g, d), got {form_of(embeddings)}")
        if embeddings.ndim != 2 or not embeddings.is_floating_point():
            raise ValueError(f"{name} must be floating of shape (g, d), got {form_of(embeddings)}")
    if left.shape != right.shape:
        raise ValueError(f"right must have the shape of left, {tuple(left.shape)}, got {form_of(right)}")
    logs, cosines = formulas.matched_pairs(left.float(), right.float(), temperature, torch)
    joint = logs.mean(0)
    return {"loss": -joint, "probability": torch.stack([*logs, joint], 1).exp(), "similarity": cosines}
