"""Plans that are as much work as a job may ask for."""

import time
from contextlib import suppress
from threading import Thread

import numpy as np

from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import Scores, StepsRequest
from tests.support.services import Service
from tests.whole.attacks.frame import Outcome, Trainer, longest_hold, ms, spec
from trainer_client.client import SchedulerClient
from trainer_client.errors import SchedulerError


def a_million_passes(seconds: float) -> Outcome:
    """One call of scope `train`: an interval of a million passes over a single sample."""
    with (
        Service() as service,
        SchedulerClient(service.url, timeout=300) as client,
        Trainer(service.url) as honest,
    ):
        usual = max(honest.steps(20))
        policy = PolicySpec(name="fixed", parameters={"coverage": "subset", "share": 0.001})
        small = {"samples": 1000, "batch_size": 1000, "interval": 1000, "patience": 0}
        client.create_job(spec("hostile", **small, policy=PolicySpec(name="uniform")))
        _measured(client, 1000)
        client.swap("hostile", policy.name, dict(policy.parameters))
        begun = time.perf_counter()
        client.steps("hostile", StepsRequest(start=0), 300)
        drawn = time.perf_counter() - begun
        worst, hold = max(honest.steps(20)), longest_hold(service.url)
    return Outcome(
        f"the plan took {drawn:.1f} s, an honest step {ms(worst)} at most ({ms(usual)} without), hold {ms(hold)}",
        drawn < 30,
        worst,
    )


def large_plans(seconds: float) -> Outcome:
    """The largest plans of all coverages, one after the other, beside an honest trainer."""
    with (
        Service() as service,
        SchedulerClient(service.url, timeout=300) as client,
        Trainer(service.url) as honest,
    ):
        worst = 0.0
        for coverage in ("epoch", "draw", "subset"):
            policy = PolicySpec(name="fixed", parameters={"coverage": coverage, "share": 0.5})
            large = {"samples": 49_999, "batch_size": 49_999, "interval": 41, "patience": 0}
            client.create_job(spec(coverage, **large, policy=policy))
            begun = len(honest.taken)
            client.steps(coverage, StepsRequest(start=0), 300)
            worst = max([worst, *honest.taken[begun:], *honest.steps(3)])
        hold = longest_hold(service.url)
    return Outcome(f"an honest step took {ms(worst)} at most, hold {ms(hold)}", True, worst)


def a_stop_while_it_plans(seconds: float) -> Outcome:
    """SIGTERM while the largest plan that there may be is drawn."""
    with Service() as service, SchedulerClient(service.url, retries=0, timeout=300) as client:
        policy = PolicySpec(name="fixed", parameters={"coverage": "subset", "share": 0.003})
        client.create_job(spec("hostile", samples=1000, batch_size=2, interval=500_000, patience=0, policy=policy))
        _measured(client, 1000)
        drawing = Thread(target=_left_alone, args=(client,))
        drawing.start()
        time.sleep(1)
        begun = time.perf_counter()
        code = service.stop()
        took = time.perf_counter() - begun
        drawing.join()
    return Outcome(f"it ended with {code} after {took:.1f} s", code == 0 and took < 10)


def _measured(client: SchedulerClient, samples: int) -> None:
    """A measuring pass, so that a share is one of what was scored."""
    x = np.linspace(0, 1, samples, dtype=np.float32)
    client.scores("hostile", Scores(indices=np.arange(samples), similarity=x, loss=1 - x))


def _left_alone(client: SchedulerClient) -> None:
    with suppress(SchedulerError):
        client.steps("hostile", StepsRequest(start=0), 300)
