"""Every rival in a real training run, its batches from a scheduler."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.services import Service
from tests.trainer_client.support.clusters import clusters
from trainer_client import PolicySpec, ScheduledBatchSampler, SchedulerClient
from trainer_client.reference.fusion import FUSIONS
from trainer_client.reference.rivals import create_rival, register, rival_class, rival_names
from trainer_client.reference.rivals.base import Rival
from trainer_client.reference.rivals.registry import BUILT_IN
from trainer_client.reference.training import Trainer, TrainingConfig, TrainingResult, job_spec

EPOCHS = 2
SMALL: dict[str, dict[str, Any]] = {  # so that even the shortest run sees all of a rival
    "g_blending": {"super_epoch": 1},
    "infobatch": {"anneal": 1},
    "smv": {"warm_up": 1},
    "mslr": {"first": 2.0},
    "umt": {"teacher_epochs": 1},
    "reconboost": {"epochs_per_stage": 1, "correct_epochs": 1},
    "di_mml": {"begins": 1},
    "remix": {"warm_up": 1},
}


def run(
    client: SchedulerClient,
    name: str,
    rival: str | None,
    stop_at: int | None = None,
    policy: str = "uniform",
    **config: object,
) -> tuple[TrainingResult, dict[str, torch.Tensor], int]:
    """Two epochs of four steps, in one thread: result, weights, and how many samples the network was given."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        dataset = clusters()
        spec = job_spec(name, dataset, batch_size=50, epochs=EPOCHS, policy=PolicySpec(name=policy))
        with ScheduledBatchSampler(spec, client) as sampler:
            parameters = SMALL.get(rival or "", {})
            trainer = Trainer(
                dataset, sampler, TrainingConfig(epochs=EPOCHS, rival=rival, rival_parameters=parameters, **config)
            )
            result = trainer.train(lambda record: trainer.stop() if record.batch.step + 1 == stop_at else None)
        return result, trainer.model.state_dict(), trainer.forward_samples
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain(service: Service) -> dict[str, torch.Tensor]:
    """The weights that training without a rival comes to."""
    with service.client() as client:
        return run(client, "rivals-plain", None)[1]


@pytest.mark.parametrize("rival", BUILT_IN)
def test_it_trains_by_the_schedulers_batches_and_stops_and_goes_on_with_the_same_weights(
    client: SchedulerClient, job_name: str, tmp_path: Path, plain: dict[str, torch.Tensor], rival: str
) -> None:
    whole, expected, _ = run(client, f"{job_name}-whole", rival)
    assert whole.test is not None
    assert len(whole.epochs) == EPOCHS
    assert all(torch.isfinite(value).all() for value in expected.values())
    assert any(not torch.equal(expected[name], value) for name, value in plain.items() if name in expected)
    checkpoint = tmp_path / "run.pt"
    run(client, f"{job_name}-parts", rival, stop_at=6, checkpoint=checkpoint)
    _, weights, _ = run(client, f"{job_name}-parts", rival, checkpoint=checkpoint)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("rival", BUILT_IN)
def test_it_says_whence_it_is_what_it_costs_and_what_to_tune(rival: str) -> None:
    kind = rival_class(rival)
    assert kind.paper
    assert kind.cost
    assert kind.__doc__ is not None
    assert kind.paper.split(", ")[-1] in " ".join(kind.__doc__.split())  # the venue and the year
    assert set(kind.ranges) <= set(kind.model_fields)
    for name, (low, high) in kind.ranges.items():
        assert low < high
        kind.model_validate({name: low})
        kind.model_validate({name: high})


def test_the_page_of_rivals_has_a_row_of_each() -> None:
    page = (Path(__file__).parents[4] / "docs" / "how-to" / "rivals.md").read_text()
    rows = {cells[1].strip("` "): cells for line in page.splitlines() if len(cells := line.split("|")) == 9}
    assert set(BUILT_IN) == {name for name in rows if name.isidentifier()}
    for name in BUILT_IN:
        kind = rival_class(name)
        assert rows[name][7].strip() == ("no" if kind.one_process else "yes")
        assert ("code" in rows[name][4]) == ("form" in kind.model_fields)
        assert rows[name][2].split(", ")[-1].strip() == kind.paper.split(", ")[-1]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_rival_runs_with_every_fusion(client: SchedulerClient, job_name: str, fusion: str) -> None:
    result, _, _ = run(client, job_name, "ogm_ge", fusion=fusion)
    assert result.test is not None


@pytest.mark.parametrize(("rival", "policy"), [("mmpareto", "balance"), ("infobatch", "bandit"), ("remix", "evidence")])
def test_rivals_and_schedulers_combine(client: SchedulerClient, job_name: str, rival: str, policy: str) -> None:
    result, weights, _ = run(client, job_name, rival, policy=policy)
    assert result.test is not None
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert client.job(job_name).spec.policy.name == policy


def test_a_rival_of_ones_own_is_known_by_its_name(
    client: SchedulerClient, job_name: str, plain: dict[str, torch.Tensor]
) -> None:
    @register("nothing")
    class Nothing(Rival):
        pass

    assert "nothing" in rival_names()
    _, same, _ = run(client, job_name, "nothing")
    assert all(torch.equal(same[name], plain[name]) for name in plain)


def test_a_wrong_name_and_a_wrong_parameter_are_named() -> None:
    with pytest.raises(ValueError, match=r"rival must be one of .*ogm_ge.*, got 'ogm'"):
        create_rival("ogm", {})
    with pytest.raises(ValueError, match=r"parameter alpha of rival ogm_ge: .* greater than 0, got -1; it has .*noise"):
        create_rival("ogm_ge", {"alpha": -1})
    with pytest.raises(ValueError, match=r"parameter beta of rival ogm_ge: .*, got 2"):
        create_rival("ogm_ge", {"beta": 2})


def test_a_pull_is_refused_beside_a_rival() -> None:
    with pytest.raises(ValueError, match=r"pull must be off beside a rival, .* got rival 'ogm_ge'"):
        TrainingConfig(rival="ogm_ge", pull=True)


def test_a_run_goes_on_with_the_rival_that_it_began_with(
    client: SchedulerClient, job_name: str, tmp_path: Path
) -> None:
    run(client, job_name, "agm", stop_at=2, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="rival must be agm, as in the checkpoint, got None"):
        run(client, job_name, None, checkpoint=tmp_path / "run.pt")


def test_samples_that_are_left_out_are_not_passed_through(client: SchedulerClient, job_name: str) -> None:
    _, _, plain = run(client, f"{job_name}-plain", None)
    _, _, fewer = run(client, job_name, "infobatch")
    assert plain == 2 * 4 * 50 + 4 * 60  # batches, three validations and the test
    assert plain - 4 * 50 < fewer < plain - 20  # of about 100 below the mean, half
