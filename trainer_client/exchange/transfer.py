"""Internal: what was measured, on its way from the device to the host."""

import numpy as np
import torch
from torch import Tensor

from bss_service.core.arrays import Float32, Int64
from bss_service.core.signals import BUILT_IN, Signals
from trainer_client.errors import LabelError
from trainer_client.logits.measurement import WRONG_LABEL, Measurement


class Transfer:
    """Values on their way from the device to the host; nobody waits for them until they are read.

    values: of k samples; rows: where these stand among the `samples` of a batch, if they are not all of it.
    """

    def __init__(self, values: Tensor, rows: Int64 | None = None, samples: int = 0) -> None:
        self._rows, self._samples = rows, samples
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            # Of the values' own device, which need not be the current one; blocking, or its waiter spins a core.
            self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(values.device))
        else:
            self._values = values.cpu()

    @property
    def is_here(self) -> bool:
        """Whether nobody would have to wait for them."""
        event = self._event
        return event is None or bool(event.query())  # type: ignore[no-untyped-call]

    def read(self) -> Float32:
        """The values, NaN for those that are not known; waits for the copy to end. Raises LabelError naming a row."""
        if (rows := self.wrong_labels()).size:
            raise LabelError(f"labels must be classes or ignore_index, got another in row {rows[0]}")
        return self.known()

    def known(self) -> Float32:
        """The values, NaN where one is not known, be it for a wrong label; waits for the copy to end."""
        values = self.arrived().copy()
        values[~np.isfinite(values)] = np.nan  # one NaN for all: marks end here
        return values

    def wrong_labels(self) -> Int64:
        """The rows (k,) in which `measure` found a label that is no class; waits for the copy to end."""
        wrong: Int64 = np.flatnonzero((self.arrived().view(np.uint32) == WRONG_LABEL).any(axis=1))
        return wrong

    def arrived(self) -> Float32:
        """The values as they came, marks among them; waits for the copy to end."""
        if (event := self._event) is not None:  # another thread may be here too
            event.synchronize()
            self._event = None
        values: Float32 = self._values.numpy()
        if self._rows is None:
            return values
        whole = np.full((self._samples, *values.shape[1:]), np.nan, dtype=np.float32)
        whole[self._rows] = values
        return whole


def packed(measurement: Measurement, signals: Signals, samples: int, rows: Int64 | None = None) -> Transfer:
    """What was measured of g samples as one tensor (g, S) on its way; NaN where a signal is missing.

    rows: the places (k,) of those among the g that were measured; None: all. A built-in signal that is not declared is
    left out: `measure` gives all that it can. Raises ValueError naming another signal that is not declared, or one that
    has another shape.
    """
    measured = samples if rows is None else len(rows)
    wanted = [name for name in measurement if name in signals or name not in BUILT_IN]
    tensors = {name: torch.as_tensor(measurement[name]).detach() for name in wanted}
    device = next((tensor.device for tensor in tensors.values() if tensor.is_cuda), torch.device("cpu"))
    # Each in single precision by itself: on its way through another one, a mark of `measure` would be lost.
    tensors = {name: tensor.to(device, torch.float32) for name, tensor in tensors.items()}
    if device.type == "cpu":  # by NumPy, whose calls take less
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return Transfer(torch.from_numpy(signals.joined(arrays, (measured,))), rows, samples)
    for name, tensor in tensors.items():
        signals.check_shape(name, tensor.shape, (measured,))
    for name in (signal.name for signal in signals if signal.name not in tensors):
        tensors[name] = torch.full((measured, *signals.shape(name)), torch.nan, device=device)
    columns = [tensors[signal.name].reshape(measured, -1) for signal in signals]
    return Transfer(torch.cat(columns, dim=1), rows, samples)
