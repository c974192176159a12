"""What is measured of heads that predict numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bss_service.core import measurement as formulas
from trainer_client.logits.forms import check_heads, form_of
from trainer_client.logits.measurement import loss_of


@torch.no_grad()
def measure_regression(
    unimodal_predictions: Sequence[Tensor],
    joint_prediction: Tensor,
    targets: Tensor,
    *,
    scale: Tensor | float = 1.0,
    unimodal_weight: float = 0.5,
    joint_weight: float | None = None,
) -> dict[str, Tensor]:
    """`loss` and, of two unimodal heads or more, `similarity`, both (g,) float32.

    unimodal_predictions, joint_prediction, targets: (g,) or (g, d), floating; a target of NaN is not known, and a
    sample that has no other isn't either. scale: the targets' standard deviation in the training set, a number or (d,);
    with it errors are comparable between dimensions and data sets. The loss is the mean over dimensions of the squared
    error in units of the scale, weighted over heads as by `measure`; the similarity the mean over pairs of unimodal
    heads of exp(−½·mean squared difference), 1 where they agree.

    There is no probability of a true label, so that a policy which looks at one knows less, and nothing can be read of
    wrong labels but by the loss. Raises TypeError or ValueError naming an argument of another form.
    """
    check_heads(unimodal_predictions, joint_prediction, "(g,) or (g, d)", "unimodal_predictions", "joint_prediction")
    if joint_prediction.ndim not in (1, 2):
        raise ValueError(f"joint_prediction must have shape (g,) or (g, d), got {form_of(joint_prediction)}")
    if not isinstance(targets, Tensor) or targets.shape != joint_prediction.shape or not targets.is_floating_point():
        raise ValueError(
            f"targets must be floating, like joint_prediction, {form_of(joint_prediction)}, got {form_of(targets)}"
        )
    samples, device = len(targets), joint_prediction.device
    width = joint_prediction[:1].numel() if samples else 1
    heads = torch.stack([*unimodal_predictions, joint_prediction]).float().reshape(-1, samples, width)
    units = scale.to(device, torch.float32, non_blocking=True) if isinstance(scale, Tensor) else float(scale)
    errors = formulas.normalised_error(
        heads, targets.to(device, non_blocking=True).float().reshape(samples, width), units, torch
    )
    # What is weighed are log-probabilities, less of which is more loss: an error stands for a negative one.
    measured: dict[str, Tensor] = {"loss": loss_of(-errors, unimodal_weight, joint_weight)}
    if len(unimodal_predictions) > 1:
        measured["similarity"] = formulas.agreement(heads[:-1], units, torch)
    return measured
