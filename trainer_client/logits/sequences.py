"""What is measured of token-level heads: one number a sequence."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bss_service.core import measurement as formulas
from trainer_client.errors import LabelError
from trainer_client.logits.forms import INTEGERS, check_heads, form_of
from trainer_client.logits.measurement import loss_of, marked


@torch.no_grad()
def measure_tokens(
    unimodal_logits: Sequence[Tensor],
    joint_logits: Tensor,
    labels: Tensor,
    *,
    shift: bool = False,
    unimodal_weight: float = 0.5,
    joint_weight: float | None = None,
    ignore_index: int = -100,
) -> dict[str, Tensor]:
    """`loss`, `probability` and, of two unimodal heads or more, `similarity`, of each sequence of tokens.

    unimodal_logits, joint_logits: (g, T, V), floating; labels: (g, T), integers in [0, V), or `ignore_index` where
    there is nothing to predict: padding, a prompt. shift: whether the logits at t are of token t + 1, as those of
    causal language models are beside `labels` that are their own inputs.

    Each number is the mean over a sequence's tokens: the loss of cross-entropies in nats, the probability (g, H) of
    those of the true tokens, the similarity of the cosines of the heads' predictions. A sequence without a token to
    predict is not known. Log-probabilities are made of one sequence at a time, H·T·V numbers in single precision. The
    weights are as for `measure`.

    A sequence has no class, so that nothing can be read of wrong labels but by its loss. Raises TypeError or ValueError
    naming an argument of another form; LabelError as `measure` does.
    """
    check_heads(unimodal_logits, joint_logits, "(g, T, V)")
    _check_tokens(joint_logits, labels)
    heads = [*unimodal_logits, joint_logits]
    if shift:
        heads, labels = [logits[:, :-1] for logits in heads], labels[:, 1:]
    tokens, is_ignored, is_outside = formulas.usable_labels(labels.long(), joint_logits.shape[2], ignore_index, torch)
    is_wrong = is_outside & ~is_ignored
    if labels.device.type == "cpu" and is_wrong.any():
        row, place = is_wrong.nonzero()[0].tolist()
        raise LabelError(
            f"labels must be 0 to {joint_logits.shape[2] - 1}, or ignore_index = {ignore_index}, got "
            f"{int(labels[row, place])} in row {row}"
        )
    device = joint_logits.device
    parts = (tokens, ~(is_ignored | is_outside), is_wrong)
    tokens, is_known, is_wrong = (part.to(device, non_blocking=True) for part in parts)
    rows = [
        _sequence(torch.stack([logits[row] for logits in heads]).float(), tokens[row], is_known[row])
        for row in range(len(tokens))
    ]
    if not rows:
        rows = [torch.empty(2 * len(heads) + 1, device=device)]
    of_rows = torch.stack(rows)[: len(tokens)]  # (g, 2·H + 1)
    logs, probability, similarity = of_rows[:, : len(heads)], of_rows[:, len(heads) : -1], of_rows[:, -1]
    by_signal = {"loss": loss_of(logs.T, unimodal_weight, joint_weight), "probability": probability}
    if len(unimodal_logits) > 1:
        by_signal["similarity"] = similarity
    unknown = ~is_known.any(1)
    return marked(by_signal, unknown | is_wrong.any(1), ~is_wrong.any(1))


def _sequence(logits: Tensor, tokens: Tensor, is_known: Tensor) -> Tensor:
    """Of one sequence (H, T, V): log-probability and probability (H,) of its tokens (T,), similarity: (2·H + 1,)."""
    logs = formulas.log_softmax(logits, torch)
    at_token = formulas.true_label(logs, tokens, torch)
    means = [formulas.known_mean(values, is_known, torch) for values in (at_token, at_token.exp())]
    similarity = logits.new_full((1,), torch.nan)
    if len(logits) > 2:
        similarity = formulas.known_mean(formulas.similarity(logs[:-1].exp(), torch), is_known, torch)[None]
    return torch.cat([*means, similarity])


def _check_tokens(joint_logits: Tensor, labels: Tensor) -> None:
    if joint_logits.ndim != 3 or joint_logits.shape[2] < 2:
        raise ValueError(f"joint_logits must have shape (g, T, V), got {form_of(joint_logits)}")
    if not isinstance(labels, Tensor) or labels.shape != joint_logits.shape[:2] or labels.dtype not in INTEGERS:
        raise ValueError(
            f"labels must be integers of shape {tuple(joint_logits.shape[:2])}, the token at each place, got "
            f"{form_of(labels)}"
        )
