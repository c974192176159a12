"""Memory and disk: jobs, measuring passes and batches of one's own without end."""

from pathlib import Path

import numpy as np

from bss_service.protocol.training import AttachRequest, LocalBatches, Scores, StepsRequest
from bss_service.testing import ServiceProcess
from tests.whole.attacks.frame import Outcome, spec
from trainer_client.client import SchedulerClient
from trainer_client.errors import RefusedError


def jobs_without_end(seconds: float) -> Outcome:
    """Jobs of two million samples, one after the other, in a service that may take 1 GiB for jobs."""
    with ServiceProcess(flags=["--max-memory", str(2**30)]) as service, SchedulerClient(service.url) as client:
        made, sentence = 0, ""
        try:
            for made in range(100):
                client.create_job(spec(f"job-{made}", samples=2_000_000))
        except RefusedError as error:
            sentence = error.detail
        memory = _memory(service)
    return Outcome(f"{made} were made, {memory:,.0f} MiB; {sentence!r}", 0 < made < 99 and memory < 1500)


def passes_without_end(seconds: float) -> Outcome:
    """Forty measuring passes over a million samples that wait for a plan; then the service is started again."""
    samples = 10**6 if seconds > 2 else 10**5
    with ServiceProcess() as service, SchedulerClient(service.url) as client:
        client.create_job(spec("hostile", samples=samples))
        x = np.linspace(0, 1, samples, dtype=np.float32)
        before = _memory(service)
        for _ in range(40):
            client.scores("hostile", Scores(indices=np.arange(samples), similarity=x, loss=x))
        grown = _memory(service) - before
        service.stop()
        service.start()
        measured = client.job("hostile").spec.samples
    return Outcome(f"grew by {grown:,.0f} MiB, and was read again", grown < samples / 1000 and measured == samples)


def batches_behind_a_trainers_back(seconds: float) -> Outcome:
    """`local-batches` for steps that an honest trainer was handed out, and as many at once as a body holds."""
    with ServiceProcess() as service, SchedulerClient(service.url) as client:
        client.create_job(spec("honest"))
        client.attach("honest", AttachRequest(client="honest", host="gpu-1", process=7))
        came = client.steps("honest", StepsRequest(start=0, count=16, client="honest")).batches.indices
        refused = []
        for start, indices in ((8, came[::-1][:4]), (16, np.zeros((60_000, 256), np.int64))):
            try:
                client.local_batches("honest", LocalBatches(start=start, indices=indices))
            except RefusedError as error:
                refused.append(error.status)
        same = (client.batches("honest", 0, 16).indices == came).all()
    told = f"refused with {refused}; what was handed out is {'' if same else 'not '}what it was"
    return Outcome(told, bool(same) and refused == [409, 422])


def _memory(service: ServiceProcess) -> float:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
