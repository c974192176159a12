"""`bss compare`, `bss control`, and what `bss show` says of gain, against a running service."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest

from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import StepsRequest
from bss_service.protocol.validation import Comparison
from tests.bss_cli.conftest import INTERVAL, Run, report
from trainer_client.client import SchedulerClient

SIZES: Any = {"samples": 64, "modalities": ["image", "text"], "batch_size": 8, "patience": 0.0}  # no feedback comes
PREFIXES = (f"pair-{number}" for number in count())


@pytest.fixture
def prefix() -> str:
    """What the names of this test's jobs begin with."""
    return next(PREFIXES)


def run(client: SchedulerClient, name: str, policy: str, accuracies: Sequence[float], seed: int = 0) -> str:
    """A job that validated after each epoch."""
    client.create_job(JobSpec(name=name, policy=policy, seed=seed, weighted=True, **SIZES))
    for epoch, accuracy in enumerate(accuracies):
        client.steps(name, StepsRequest(start=epoch * INTERVAL, count=INTERVAL))
        told = report((epoch + 1) * INTERVAL).model_copy(update={"accuracy": accuracy})
        client.validation(name, told)
    return name


def pairs(client: SchedulerClient, prefix: str, gains: Sequence[float]) -> list[str]:
    """Jobs of `balance` and of plain shuffling for each seed, whose best accuracies differ by so much."""
    return [
        run(client, f"{prefix}-{policy}-{seed}", policy, [0.3, 0.5 + gain * (policy == "balance"), 0.4], seed)
        for policy in ("balance", "uniform")
        for seed, gain in enumerate(gains)
    ]


def test_the_first_sentence_is_the_result_with_its_interval(bss: Run, client: SchedulerClient, prefix: str) -> None:
    lines = bss("compare", *pairs(client, prefix, [0.02, 0.03, 0.04])).stdout.splitlines()
    sentence = " ".join(" ".join(lines).split())
    assert sentence.startswith(
        "balance helps: +3.00 points of best validation accuracy over uniform, 95 % interval [+0.52, +5.48] of 3 "
        "paired seeds, up to step 24."
    )
    assert "+3.00 [+0.52, +5.48]" in lines[-1]


def test_in_json_it_is_the_answer_of_the_service(bss: Run, client: SchedulerClient, prefix: str) -> None:
    jobs = pairs(client, prefix, [0.02, -0.01])
    answer = Comparison.model_validate_json(bss("compare", *jobs, "--json").stdout)
    assert answer == client.compare(*jobs)
    assert (answer.policies[0].verdict, answer.steps) == ("can't tell yet", [8, 16, 24])


def test_jobs_that_differ_are_told_with_the_field_and_both_values(
    bss: Run, client: SchedulerClient, prefix: str
) -> None:
    one = run(client, f"{prefix}-a", "balance", [0.5])
    client.create_job(JobSpec(name=f"{prefix}-b", **SIZES | {"samples": 80}))
    result = bss("compare", one, f"{prefix}-b")
    told = f"same samples: '{prefix}-a' has 64, '{prefix}-b' has 80"
    assert (result.exit_code, told in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("jobs", "sentence"),
    [
        (["nobody"], "at least 2"),
        (["nobody", "nobody"], "named once"),
        (["nobody", "none"], "job 'nobody' is not known"),
    ],
)
def test_what_names_no_two_jobs_is_refused(bss: Run, jobs: list[str], sentence: str) -> None:
    result = bss("compare", *jobs)
    assert (result.exit_code, sentence in result.stderr) == (1, True)


def test_control_prints_the_paired_uniform_job(bss: Run, client: SchedulerClient, prefix: str) -> None:
    job = run(client, prefix, "balance", [0.5], seed=7)
    spec = JobSpec.model_validate_json(bss("control", job).stdout)
    alike = client.job(job).spec.model_dump(exclude={"name", "policy"})
    assert spec.model_dump(exclude={"name", "policy"}) == alike
    assert (spec.name, spec.policy.name) == (f"{job}-control", "uniform")
    assert spec.name not in [state.spec.name for state in client.jobs().jobs]


def test_control_creates_it_once_and_the_same_again(bss: Run, client: SchedulerClient, prefix: str) -> None:
    job = run(client, prefix, "balance", [0.5])
    created = [bss("control", job, "--create").stdout for _ in range(2)]
    assert created[0] == created[1]
    assert client.job(f"{job}-control").spec == JobSpec.model_validate_json(created[0])


def test_a_uniform_job_needs_no_control(bss: Run, client: SchedulerClient, prefix: str) -> None:
    result = bss("control", run(client, prefix, "uniform", [0.5]))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "must have another policy than uniform" in result.stderr


def shown(bss: Run, job: str) -> str:
    """What `bss show` prints, without the lines' ends and the frame."""
    return " ".join(bss("show", job).stdout.replace("│", " ").split())


def test_show_says_that_nothing_is_known_without_a_control_and_what_is_with_one(
    bss: Run, client: SchedulerClient, prefix: str
) -> None:
    job = run(client, prefix, "balance", [0.5, 0.6])
    assert (
        "is it helping? without a paired uniform run nothing can be said about gain; "
        f"`bss control {job}` makes one" in shown(bss, job)
    )
    bss("control", job, "--create")
    assert f"nothing can be said yet: job '{job}-control' has no validation report yet" in shown(bss, job)
    run(client, f"{job}-control", "uniform", [0.5, 0.55])
    assert "can't tell yet whether balance helps: +5.00 points" in shown(bss, job)
    assert "uniform is what other policies are compared with" in shown(bss, f"{job}-control")


def test_show_draws_the_accuracies_of_all_heads(bss: Run, client: SchedulerClient, prefix: str) -> None:
    job = run(client, prefix, "balance", [0.1, 0.2, 0.8, 0.45])
    told = shown(bss, job)
    assert "joint ▁▂█▄ 0.100 to 0.450, best 0.800 after step 24" in told
    assert "image ▁▁▁▁ 0.510 to 0.510" in told


def test_show_tells_rewards_as_they_were_reported(bss: Run, client: SchedulerClient, prefix: str) -> None:
    client.create_job(JobSpec(name=prefix, policy="balance", reward={"metric": "accuracy"}, **SIZES))
    run_on = [0.5, 0.52, 0.51]
    for epoch, accuracy in enumerate(run_on):
        client.steps(prefix, StepsRequest(start=epoch * INTERVAL, count=INTERVAL))
        client.validation(prefix, report((epoch + 1) * INTERVAL).model_copy(update={"accuracy": accuracy}))
    assert "gains +2.00 -1.00 points of accuracy, newest last" in shown(bss, prefix)
