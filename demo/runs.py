"""One training run of the demo: a real trainer, its samples chosen over HTTP, watched from beside the loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bss_service.job.snapshot import Snapshot
from bss_service.protocol.policies import PolicySpec
from demo.plan import Run
from demo.results import EVERYONE, JOINT, QUANTILES, RIGHT, WRONG, Epoch, RunResult, ScoreBands, Step
from trainer_client.client import SchedulerClient
from trainer_client.reference.data import Dataset, corrupt
from trainer_client.reference.evaluation import Evaluation
from trainer_client.reference.training import EpochRecord, StepRecord, Trainer, TrainingConfig, TrainingResult, job_spec
from trainer_client.sampler import ScheduledBatchSampler

Flags = NDArray[np.bool_]
Scores = NDArray[np.float32]


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

    on_epoch: is given the number of each epoch that ended and its validation accuracy. stopped: asked after every step
    whether to leave off, with StoppedError.
    """
    corrupted = corrupt(dataset, noisy_labels=run.condition.noisy_labels, seed=run.seed).dataset
    training = dataset.indices("train")
    wrong = corrupted.labels[training] != dataset.labels[training]
    policy = PolicySpec(name=run.policy, parameters=run.parameters)
    spec = job_spec(
        run.job,
        corrupted,
        batch_size=run.batch_size,
        epochs=run.epochs,
        seed=run.seed,
        policy=policy,
        tail="carry",  # epochs are the whole training set, as the figures are reported
    )
    config = TrainingConfig(
        epochs=run.epochs, seed=run.seed, workers=run.loader_workers, measure_first=run.measure_first, on_outage="raise"
    )
    with (
        SchedulerClient(url, token="") as client,
        ScheduledBatchSampler(spec, client, prefetch=run.prefetch, on_outage="raise", outage_after=30.0) as sampler,
    ):
        trainer = Trainer(corrupted, sampler, config)
        watcher = Watcher(run, trainer, client, wrong, on_epoch, stopped)
        result = trainer.train(watcher)
        if result.test is None:
            raise StoppedError(run.job)
        sampler.flush()
        return RunResult(
            run=run,
            epochs=[_epoch(record) for record in result.epochs],
            best_epoch=result.best_epoch,
            test=_accuracies(result.test),
            seconds=result.seconds - watcher.seconds,
            extra_forward_samples=result.extra_forward_samples,
            worst_wait_seconds=result.worst_wait_seconds,
            batches=sampler.stats.batches,
            decisions=client.decisions(run.job, 0, 1000).decisions,
            bands=watcher.bands,
            scores=[None if np.isnan(score) else float(score) for score in read_scores(client, run.job)],
            wrong_label=wrong.tolist(),
            steps=watcher.steps,
        )


@dataclass
class Watcher:
    """Called by the trainer after each step; looks at the scores once an epoch and counts what that costs."""

    run: Run
    trainer: Trainer
    client: SchedulerClient
    wrong: Flags
    on_epoch: Callable[[int, float], None]
    stopped: Callable[[], bool]
    seconds: float = 0.0
    bands: list[ScoreBands] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    _epoch: int = -1
    _began: float = 0.0

    def __call__(self, record: StepRecord) -> None:
        """One step is done."""
        started = time.monotonic()
        if self.stopped():
            self.trainer.stop()
        if self.run.purpose == "swap":
            self._note_step(record, started)
        elif record.batch.epoch != self._epoch:
            self._note_scores(record.batch.epoch)
        if record.batch.epoch != self._epoch:
            self._epoch = record.batch.epoch
            self._report_epoch(self.trainer.result)
        self.seconds += time.monotonic() - started

    def _note_step(self, record: StepRecord, now: float) -> None:
        self._began = self._began or now
        batch = record.batch
        self.steps.append(Step(batch.step, batch.epoch, batch.policy_version, now - self._began))

    def _note_scores(self, epoch: int) -> None:
        scores = read_scores(self.client, self.run.job)
        if not np.isnan(scores).all():
            self.bands.append(ScoreBands(epoch, score_quantiles(scores, self.wrong)))

    def _report_epoch(self, result: TrainingResult) -> None:
        if result.epochs:
            self.on_epoch(len(result.epochs), result.epochs[-1].validation.accuracy)


def read_scores(client: SchedulerClient, job: str) -> Scores:
    """The balance score ŝ of every sample, (n,), NaN where it has none, from the job's snapshot."""
    table = Snapshot.from_frame(client.snapshot(job)).table
    scores: Scores = table.average["similarity"] - table.average["loss"]
    return scores


def score_quantiles(scores: Scores, wrong: Flags) -> dict[str, list[float]]:
    """QUANTILES of the scores there are, of all samples and, where some labels are wrong, of both groups."""
    scored = ~np.isnan(scores)
    groups = {EVERYONE: scored, RIGHT: scored & ~wrong, WRONG: scored & wrong}
    return {
        name: np.quantile(scores[members], QUANTILES).tolist()
        for name, members in groups.items()
        if members.any() and (wrong.any() or name == EVERYONE)
    }


def _epoch(record: EpochRecord) -> Epoch:
    return Epoch(
        record.epoch, record.step, record.policy_version, record.validation.loss, _accuracies(record.validation)
    )


def _accuracies(report: Evaluation) -> dict[str, float]:
    return {name: accuracy for name, (accuracy, _) in report.modalities.items()} | {JOINT: report.accuracy}
