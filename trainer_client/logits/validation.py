"""A validation gathered from logits, batch by batch, on the device that holds them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer_client.logits.confusion import ConfusionMeter
from trainer_client.logits.measurement import read


class ValidationMeter:
    """What `sampler.validation` wants to know: `sampler.validation(**meter.report())`.

    modalities: those that have unimodal heads, in the job's order; none: there is the joint head alone. It waits for no
    device before `report`.

        meter = ValidationMeter(["audio", "video"])
        for audio, video, label in val_loader:
            audio_logits, video_logits, joint_logits = model(audio, video)
            meter.add([audio_logits, video_logits], joint_logits, label)
        sampler.validation(**meter.report())
    """

    def __init__(self, modalities: Sequence[str] = ()) -> None:
        self._modalities = list(modalities)
        self._sums: Tensor | None = None  # (2·H + 2,) float64: right and probability of each head, joint loss, samples
        self._confusion = ConfusionMeter()

    @torch.no_grad()
    def add(
        self, unimodal_logits: Sequence[Tensor], joint_logits: Tensor, labels: Tensor, *, ignore_index: int = -100
    ) -> None:
        """Take in a batch; arguments and errors as for `measure`. Samples without a usable label don't count.

        Raises ValueError for another number of unimodal heads than of modalities.
        """
        if len(unimodal_logits) != len(self._modalities):
            raise ValueError(f"unimodal_logits must be those of {self._modalities}, got {len(unimodal_logits)}")
        self._confusion.add(unimodal_logits, joint_logits, labels, ignore_index=ignore_index)
        known = read(unimodal_logits, joint_logits, labels, ignore_index)
        assert known.labels is not None, "the confusion refuses soft ones"
        right = torch.eq(known.logs.argmax(-1), known.labels)
        is_known = right.new_ones(right.shape[1]) if known.unknown is None else ~known.unknown.either
        right = right & is_known
        logs = known.at_label.double().masked_fill(~is_known, 0.0)
        probability = torch.where(is_known, logs.exp(), 0.0)
        parts = [right.sum(1).double(), probability.sum(1), -logs[-1:].sum(1), is_known.sum()[None].double()]
        sums = torch.cat(parts)
        self._sums = sums if self._sums is None else self._sums + sums

    def report(self) -> dict[str, Any]:
        """The arguments of `sampler.validation`, of all that was added. Raises ValueError if that is no sample."""
        samples = 0 if self._sums is None else round(self._sums[-1].item())
        if self._sums is None or not samples:
            raise ValueError("samples must be at least 1 that has a label, got 0: call add with each validation batch")
        *means, loss, _ = (self._sums / samples).tolist()
        accuracy, probability = means[: len(means) // 2], means[len(means) // 2 :]
        heads = zip(self._modalities, accuracy, probability, strict=False)
        return {
            "loss": loss,
            "accuracy": accuracy[-1],
            "modalities": {name: (right, mean) for name, right, mean in heads},
            "samples": samples,
            "confusion": self._confusion,
        }
