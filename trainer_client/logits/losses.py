"""The training loss of samples, with their weights, and pulled towards what the heads said of them before."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from bss_service.core import measurement as formulas
from trainer_client.exchange.prefetch import ScheduledBatch
from trainer_client.logits.measurement import loss_of, read

RATE: Final = 0.3  # of the moving average of a head's predictions
MOST_BYTES: Final = 2**30

log = logging.getLogger(__name__)


class Pull:
    """Early-learning regularisation: each head is pulled towards what it said of a sample before.

    What a network says early on is right more often than the labels, where many are wrong (Liu et al. 2020): it then
    memorises the wrong ones more slowly. Give it to `multimodal_loss` with the batch. How strong the pull is comes with
    each batch, from the service: 0, and no memory is taken, unless it estimates that many labels are wrong.

    It keeps a moving average of each head's softmax for every sample, in half precision: 2·n·c·H bytes, on the logits'
    device. Raises ValueError if that is more than `most_bytes`.
    """

    def __init__(self, samples: int, classes: int, heads: int, *, most_bytes: int = MOST_BYTES) -> None:
        """heads: H, the unimodal ones and the joint one."""
        self._shape = (heads, samples, classes)
        self._memory: Tensor | None = None  # (H, n, c), 0 of a sample that was not seen
        if self.nbytes > most_bytes:
            raise ValueError(
                f"most_bytes must be at least {self.nbytes}, for {samples} samples, {classes} classes and {heads} "
                f"heads in half precision, got {most_bytes}"
            )

    @property
    def nbytes(self) -> int:
        """What it takes, once it does."""
        heads, samples, classes = self._shape
        return 2 * heads * samples * classes

    def term(self, logs: Tensor, batch: ScheduledBatch) -> Tensor | None:
        """What it adds to each head's loss, (H, g), for log-probabilities (H, g, c); None: nothing.

        Remembers what the heads say of the samples now.
        """
        if not batch.pull:
            return None
        memory = self._taken(logs.device)
        samples = torch.from_numpy(batch.indices.copy()).to(logs.device, non_blocking=True)
        probabilities, before = logs.exp(), memory[:, samples].float()
        with torch.no_grad():
            seen = before.sum(dim=2, keepdim=True) > 0
            memory[:, samples] = torch.where(seen, before + RATE * (probabilities - before), probabilities).half()
        agreement = (probabilities * before).sum(dim=2)
        term: Tensor = batch.pull * formulas.pull_term(agreement, agreement.detach(), torch)
        return term

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: what is remembered, if anything is."""
        return {} if self._memory is None else {"memory": self._memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was. Raises ValueError for the memory of other samples, classes or heads."""
        memory = state.get("memory")
        if memory is not None and tuple(memory.shape) != self._shape:
            raise ValueError(f"memory must have shape {self._shape}, got {tuple(memory.shape)}")
        self._memory = None if memory is None else memory.half().clone()

    def _taken(self, device: torch.device) -> Tensor:
        if self._memory is None:
            log.info("the pull takes %.1f MB on %s", self.nbytes / 1e6, device)
            self._memory = torch.zeros(self._shape, dtype=torch.float16, device=device)
        self._memory = self._memory.to(device)
        return self._memory


def multimodal_loss(
    unimodal_logits: Sequence[Tensor],
    joint_logits: Tensor,
    labels: Tensor,
    *,
    unimodal_weight: float = 0.5,
    joint_weight: float | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    batch: ScheduledBatch | None = None,
    pull: Pull | None = None,
) -> Tensor:
    """The training loss of each sample, (g,) float32, to be averaged and differentiated; arguments as for `measure`.

    batch: `sampler.batch_of(index)`; losses of heads that it gives a weight of 0 for a sample do not count. pull: is
    added to each head's loss, as strongly as the batch says.

    A sample that is ignored has loss 0 and no gradient, as by torch's `cross_entropy(…, reduction="none")`; the mean
    over the others is the sum divided by their number. Raises what `measure` raises. A label out of range on another
    device than the CPU gives NaN and no gradient.
    """
    known = read(unimodal_logits, joint_logits, labels, ignore_index, label_smoothing)
    at_target = known.at_target
    if pull is not None:
        if batch is None:
            raise ValueError("batch must be sampler.batch_of(index) where there is a pull, got None")
        term = pull.term(known.logs, batch)
        at_target = at_target if term is None else at_target - term
    if batch is not None and batch.modality_weights is not None:
        of_heads = torch.from_numpy(batch.modality_weights.T.copy()).to(at_target.device, non_blocking=True)
        at_target = at_target.masked_fill(of_heads == 0, 0.0) * of_heads
    loss: Tensor = loss_of(at_target, unimodal_weight, joint_weight)
    if (unknown := known.unknown) is None:
        return loss
    return loss.masked_fill(unknown.is_outside, torch.nan).masked_fill(unknown.is_ignored, 0.0)


def weighted(losses: Tensor, batch: ScheduledBatch) -> Tensor:
    """The loss of a batch, (): the mean of its samples' losses (g,), each with its weight. Differentiate this.

    batch: `sampler.batch_of(index)`, of the same samples in the same order. Weights are 1 on average over the global
    batch, so that ranks which average gradients get those of the global batch's weighted mean. A sample of weight 0, a
    probe, gives no gradient, whatever its loss. Raises ValueError for losses of another shape.
    """
    if losses.shape != batch.indices.shape:
        raise ValueError(f"losses must be one of each sample, {batch.indices.shape}, got {tuple(losses.shape)}")
    if batch.weights is None:
        return losses.mean()
    weights = torch.from_numpy(batch.weights.copy()).to(losses.device, losses.dtype, non_blocking=True)
    return (losses.masked_fill(weights == 0, 0.0) * weights).mean()
