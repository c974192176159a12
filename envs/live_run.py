"""A run of the reference trainer in a thread: what an episode of `ServedScheduling` trains."""

import math
import threading
from typing import Final

import torch
from pydantic import SecretStr

from bss_service.protocol.jobs import JobSpec
from trainer_client.client import SchedulerClient
from trainer_client.reference.data import Dataset
from trainer_client.reference.training import Trainer, TrainingConfig
from trainer_client.sampler import ScheduledBatchSampler

STOP_SECONDS: Final = 60.0  # for a step or an evaluation that is under way


class LiveRun:
    """Trains as soon as it is made. `error` is what it ended with, if not well."""

    def __init__(
        self, url: str, token: SecretStr | None, dataset: Dataset, spec: JobSpec, config: TrainingConfig
    ) -> None:
        self.job = spec.name
        self.error: Exception | None = None
        self._client = SchedulerClient(url, token=token.get_secret_value() if token else None)
        self._sampler: ScheduledBatchSampler | None = None
        self._trainer: Trainer | None = None
        self._stopped = False
        self._thread = threading.Thread(
            target=self._train, args=(dataset, spec, config), name=f"bss-trainer-{spec.name}", daemon=True
        )
        self._thread.start()

    @property
    def finished(self) -> bool:
        """Whether it has ended, well or not."""
        return not self._thread.is_alive()

    @property
    def diverged(self) -> bool:
        """Whether the loss on the validation set was not finite after some epoch."""
        epochs = self._trainer.result.epochs if self._trainer is not None else []
        return any(not math.isfinite(record.validation.loss) for record in epochs)

    def end_soon(self) -> None:
        """Let it end after the current step."""
        self._stopped = True
        if self._trainer is not None:
            self._trainer.stop()

    def wait(self) -> None:
        """Wait for its end."""
        self._thread.join(STOP_SECONDS)
        self._client.close()

    def abandon(self) -> None:
        """End it without the service, even where it waits for a batch."""
        self.end_soon()
        if self._sampler is not None:
            self._sampler.close(timeout=0.0)
        self._client.close()  # ends the tries of a thread that has not got as far as a sampler
        self._thread.join(STOP_SECONDS)

    def _train(self, dataset: Dataset, spec: JobSpec, config: TrainingConfig) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # of this thread's sums: the same in every run
        try:
            with ScheduledBatchSampler(spec, self._client) as self._sampler:
                self._trainer = Trainer(dataset, self._sampler, config)
                if not self._stopped:
                    self._trainer.train()
        except Exception as error:
            self.error = error
        finally:
            torch.set_num_threads(threads)
