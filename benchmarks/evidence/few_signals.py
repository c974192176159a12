"""What `learned` gains where signals are missing, beside what it gains with all of them.

python -m benchmarks.evidence.few_signals mfeat.npz:kar,fou mfeat.npz:fou,zer tmd.npz:motion,sound cora.npz

Small students on held-out tasks, which no policy was trained on: emoji, watch and the data named. Test accuracy at
the best validation epoch, against plain shuffling on the same data from the same weights.
"""

import argparse
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch

from bss_service.core.arrays import Float32
from bss_service.core.evidence.posterior import Evidence
from bss_service.core.interval import judge_interval_partly
from bss_service.core.samples.table import SampleTable
from bss_service.core.signals import EVIDENCE
from bss_service.policies.base import Choice, create_policy
from bss_service.policies.shipped import usual_partial_judge
from bss_service.policies.versions import consult
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.validation import ValidationReport
from envs.cohort import Cohort
from envs.research.comparison import BUILT_IN, INTERVALS, SAMPLES, HeldOut
from envs.run import StudentRun
from envs.tasks import BATCH_SIZE, lesson, origin

HARMS: Final = ("clean", "noisy 40 %", "flipped 30 %")
SENT: Final[Mapping[str, dict[str, Any]]] = {  # by what is told of a job: fields of its spec
    "all of `EVIDENCE`": {"signals": [signal.name for signal in EVIDENCE]},
    "loss, probability, similarity (the default)": {},
    "loss, probability of the joint head": {"unimodal_heads": False},
    "loss": {"unimodal_heads": False, "signals": ["loss"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", help="prepared file.npz[:modality,modality] of two modalities")
    parser.add_argument("--seeds", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    gains: dict[str, list[list[float]]] = {told: [[] for _ in HARMS] for told in SENT}
    for source in [*BUILT_IN, *args.data]:
        plain = _accuracies(source, "uniform", {}, args.seeds)
        for told, fields in SENT.items():
            gained = _accuracies(source, "learned", fields, args.seeds) - plain
            for of_harm, points in zip(gains[told], gained.tolist(), strict=True):
                of_harm += points
            print(f"# {source.rsplit('/', 1)[-1]}, {told}: " + ", ".join(map(_with_error, gained.tolist())), flush=True)
    print("| signals | " + " | ".join(HARMS) + " |\n|---|" + "---|" * len(HARMS))
    for told, by_harm in gains.items():
        print(f"| {told} | " + " | ".join(map(_with_error, by_harm)) + " |")


def _accuracies(source: str, policy: str, fields: dict[str, Any], seeds: int) -> Float32:
    """In percent, (harms, seeds)."""
    made = origin(source)
    spec = JobSpec(
        name="run",
        samples=SAMPLES,
        modalities=[f"m{k}" for k in range(made.modalities)],
        batch_size=BATCH_SIZE,
        horizon=INTERVALS * (SAMPLES // BATCH_SIZE),
        policy=policy,
        **fields,
    )

    class Runs(Cohort):
        kind = type("Run", (FewSignals,), {"spec": spec})

    tasks = [HeldOut(source, harm).task(seed) for harm in HARMS for seed in range(100, 100 + seeds)]
    cohort = Runs(len(tasks), modalities=made.modalities, classes=made.classes, judged=True)
    for place, task in enumerate(tasks):
        cohort.start(place, task, lesson(task), np.random.default_rng([task.seed, 0]))
    actors = [(create_policy(policy, {}), np.random.default_rng([task.seed, 1])) for task in tasks]
    best = np.zeros(len(tasks))
    running = np.ones(len(tasks), np.bool_)
    while running.any():
        choices: list[Choice | None] = [
            consult(actor, spec, rng, cohort.run(place).observe()) if running[place] else None
            for place, (actor, rng) in enumerate(actors)
        ]
        for place, outcome in enumerate(cohort.step(choices)):
            if outcome is not None and (outcome.terminated or outcome.truncated):
                best[place], running[place] = outcome.info["test_accuracy"], False
    return 100 * best.reshape(len(HARMS), seeds).astype(np.float32)


class FewSignals(StudentRun):
    """A run of which a job measures some signals, and tells of some heads."""

    spec: JobSpec

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.signals = self.spec.measurements()
        self.table = SampleTable.empty(options["samples"], self.signals)

    def start(self, report: ValidationReport) -> None:
        super().start(self._told(report))

    def finish(self, measured: Mapping[str, Float32], report: ValidationReport) -> Decision:
        sent = {
            signal.name: measured[signal.name][..., -self.signals.heads :] for signal in self.signals if signal.per_head
        }
        sent |= {signal.name: measured[signal.name] for signal in self.signals if not signal.per_head}
        return super().finish(sent, self._told(report))

    def _told(self, report: ValidationReport) -> ValidationReport:
        heads = {name: head for name, head in report.modalities.items() if self.signals.heads > 1}
        return report.model_copy(update={"modalities": heads})

    def _judged(self) -> Evidence | None:
        if self.table.dynamics is not None:
            return super()._judged()
        policy = create_policy(self.spec.policy.name, {})
        if not policy.partial_evidence or not self.spec.lacks(policy.enough()):
            return None
        return judge_interval_partly(self.table, usual_partial_judge(), self.history.reports)


def _with_error(gains: list[float]) -> str:
    return f"{np.mean(gains):+.2f} ± {np.std(gains, ddof=1) / np.sqrt(len(gains)):.2f}"


if __name__ == "__main__":
    main()
