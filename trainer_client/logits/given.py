"""Which signals each way to measure gives, and the plainest of these ways."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from bss_service.core.signals import EVIDENCE, LOSS, PAPER, SIMILARITY, Signal
from trainer_client.logits.binary import measure_binary, measure_multilabel
from trainer_client.logits.forms import form_of
from trainer_client.logits.measurement import measure
from trainer_client.logits.pairs import measure_pairs
from trainer_client.logits.regression import measure_regression
from trainer_client.logits.rewards import REWARDED, measure_rewards
from trainer_client.logits.sequences import measure_tokens


@torch.no_grad()
def measure_losses(losses: Tensor) -> dict[str, Tensor]:
    """`loss` (g,) of anything that has one a sample, before their mean is taken.

    losses: (g,), floating; NaN where one is not known. Raises TypeError or ValueError for another form.
    """
    if not isinstance(losses, Tensor):
        raise TypeError(f"losses must be a tensor (g,), got {form_of(losses)}")
    if losses.ndim != 1 or not losses.is_floating_point():
        raise ValueError(
            f"losses must be floating of shape (g,), one a sample, got {form_of(losses)}: take them before the mean, "
            'reduction="none"'
        )
    return {"loss": losses.detach().float()}


GIVEN: Final[dict[Callable[..., Any], tuple[Signal, ...]]] = {
    measure: EVIDENCE,
    measure_binary: EVIDENCE,
    measure_multilabel: PAPER,
    measure_tokens: PAPER,
    measure_regression: (SIMILARITY, LOSS),
    measure_pairs: PAPER,
    measure_losses: (LOSS,),
    measure_rewards: REWARDED,
}


def signals_of(measuring: Callable[..., Any], *, unimodal_heads: int = 2) -> list[Signal]:
    """What a way to measure gives, to be declared by a job: `JobSpec(…, signals=signals_of(measure_regression))`.

    A policy that needs others is then refused by name. measuring: `measure`, `measure_binary` … or `measure_rewards`;
    unimodal_heads: how many the model has; `similarity` takes two, but of `measure_pairs` and `measure_rewards`. Raises
    ValueError for another function, whose signals its author knows.
    """
    if measuring not in GIVEN:
        names = ", ".join(function.__name__ for function in GIVEN)
        raise ValueError(f"measuring must be one of {names}, got {getattr(measuring, '__name__', measuring)!r}")
    has_pairs = unimodal_heads > 1 or measuring in (measure_pairs, measure_rewards)
    return [signal for signal in GIVEN[measuring] if signal is not SIMILARITY or has_pairs]
