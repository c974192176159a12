"""The scheduler: feedback for a batch of 256 of a million samples, and the next batch; committed before the answer."""

import numpy as np

from benchmarks.peers.loop import answer
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import Feedback, StepsRequest
from bss_service.testing import ServiceProcess
from trainer_client.client import SchedulerClient

G = 256
SPEC = JobSpec(name="one", samples=10**6, modalities=["a", "b"], batch_size=G, policy="balance", patience=0)


def main() -> None:
    values = np.random.default_rng(0).random((1, G), dtype=np.float32)
    measured = {"similarity": values, "loss": values, "probability": np.stack([values] * 3, axis=2)}
    step = -1

    def call() -> None:
        nonlocal step
        feedback = Feedback(step=np.array([step]), **measured) if step >= 0 else None
        client.steps("one", StepsRequest(start=step + 1, feedback=feedback), spec=SPEC)
        step += 1

    with ServiceProcess() as service, SchedulerClient(service.url) as client:
        client.create_job(SPEC)
        answer(call)


if __name__ == "__main__":
    main()
