"""One training run of the demo: a real trainer, its samples chosen over HTTP, watched from beside the loop."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.samples import SampleRow
from demo.plan import ORACLE, Run
from demo.results import BINS, RIGHT, TOP, WRONG, Epoch, RunResult, Step, Suspect
from demo.samples import Flags, samples_of
from trainer_client.client import SchedulerClient
from trainer_client.reference.data import Dataset
from trainer_client.reference.training import StepRecord, Trainer, TrainingConfig, TrainingResult, job_spec
from trainer_client.sampler import ScheduledBatchSampler


class StoppedError(Exception):
    """The run was told to stop before its end."""


def execute(
    run: Run,
    dataset: Dataset,
    url: str,
    on_epoch: Callable[[int, float], None],
    stopped: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Train one run to its end.

    dataset: the whole one, with true labels. on_epoch: is given the number of each epoch that ended and its validation
    accuracy. stopped: asked after every step whether to leave off, with StoppedError.
    """
    samples = samples_of(run, dataset)
    trained = samples.trained(run.policy)
    spec = job_spec(
        run.job,
        trained,
        batch_size=run.batch_size,
        epochs=run.epochs,
        seed=run.seed,
        policy=PolicySpec(name=run.served),
        tail="carry",  # epochs are the whole training set, as the figures are reported
    )
    config = TrainingConfig(epochs=run.epochs, seed=run.seed, workers=run.loader_workers, on_outage="raise")
    with (
        SchedulerClient(url, token="") as client,
        ScheduledBatchSampler(spec, client, prefetch=run.prefetch, on_outage="raise", outage_after=30.0) as sampler,
    ):
        trainer = Trainer(trained, sampler, config)
        watcher = Watcher(run, trainer, on_epoch, stopped)
        result = trainer.train(watcher)
        if result.test is None:
            raise StoppedError(run.job)
        sampler.flush()
        listed = [] if run.policy == ORACLE else client.samples(run.job, "label", spec.samples).samples
        known = suspects(listed, samples.wrong)
        return RunResult(
            run=run,
            epochs=_epochs(result, left_out(client, run.job, spec.samples)),
            best_epoch=result.best_epoch,
            test=result.test.accuracy,
            seconds=result.seconds,
            worst_wait_seconds=result.worst_wait_seconds,
            batches=sampler.stats.batches,
            suspects=known[:TOP],
            beliefs=beliefs(known),
            steps=watcher.steps,
        )


@dataclass
class Watcher:
    """Called by the trainer after each step."""

    run: Run
    trainer: Trainer
    on_epoch: Callable[[int, float], None]
    stopped: Callable[[], bool]
    steps: list[Step] = field(default_factory=list)
    _epochs: int = 0
    _began: float = 0.0

    def __call__(self, record: StepRecord) -> None:
        """One step is done."""
        if self.stopped():
            self.trainer.stop()
        if self.run.purpose == "swap":
            self._note_step(record, time.monotonic())
        done = self.trainer.result.epochs
        if len(done) > self._epochs:
            self._epochs = len(done)
            self.on_epoch(self._epochs, done[-1].validation.accuracy)

    def _note_step(self, record: StepRecord, now: float) -> None:
        self._began = self._began or now
        batch = record.batch
        self.steps.append(Step(batch.step, batch.epoch, batch.policy_version, now - self._began))


def left_out(client: SchedulerClient, job: str, samples: int) -> dict[int, float]:
    """Share of a job's samples that each epoch was drawn without, by the latest decision in it."""
    decisions = client.decisions(job, 0, 1000).decisions
    return {decision.epoch: decision.left_out / samples for decision in decisions}


def suspects(listed: Sequence[SampleRow], wrong: Flags) -> list[Suspect]:
    """Listed samples beside the truth, (n,) whether their labels are wrong."""
    return [
        Suspect(row.index, row.evidence.right, row.evidence.label, row.evidence.likeliest, bool(wrong[row.index]))
        for row in listed
        if row.evidence is not None
    ]


def beliefs(known: Sequence[Suspect]) -> dict[str, list[int]]:
    """How many samples of either truth are in each of BINS of P(right)."""
    of = {name: [s.right for s in known if s.is_wrong == (name == WRONG)] for name in (RIGHT, WRONG)}
    return {name: np.histogram(right, BINS, (0, 1))[0].tolist() for name, right in of.items()}


def _epochs(result: TrainingResult, without: Mapping[int, float]) -> list[Epoch]:
    return [Epoch(r.epoch, r.validation.accuracy, without.get(r.epoch, 0.0)) for r in result.epochs]
