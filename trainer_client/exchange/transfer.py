"""Internal: what was measured, on its way from the device to the host."""

import torch
from torch import Tensor

from bss_service.core.arrays import Float32
from trainer_client.measurement import Measurement


class Transfer:
    """A tensor on its way from the device to the host; nobody waits for it until it is read."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            # Of the values' own device, which need not be the current one; blocking, or its waiter spins a core.
            self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(values.device))
        else:
            self._values = values.cpu()

    def read(self) -> Float32:
        """The values; waits for the copy to end."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._values.numpy()


def packed(measurement: Measurement) -> Transfer:
    """A measurement as one tensor (g, 2 + M + 1) on its way: similarity, loss, true-label probabilities."""
    columns = [measurement.similarity.unsqueeze(1), measurement.loss.unsqueeze(1), measurement.probabilities]
    return Transfer(torch.cat([column.detach().float() for column in columns], dim=1))
