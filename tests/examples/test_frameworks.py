"""The examples of frameworks: the service has every step's feedback once, and the validation."""

from collections.abc import Callable

import pytest

from trainer_client import SchedulerClient

pytestmark = pytest.mark.long  # the callbacks have tests of their own, without half a minute of imports

LAUNCH = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
LAUNCH += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")


def check(client: SchedulerClient, job_name: str, steps: int) -> None:
    state = client.job(job_name)
    assert state.validation is not None
    assert (state.steps_fed_back, state.fed_back_until, state.validation.step) == (steps, steps, steps)


@pytest.mark.parametrize("example", ["frameworks/lightning_callback.py", "frameworks/huggingface_trainer.py"])
def test_a_trainer_trains(run: Callable[..., list[str]], client: SchedulerClient, job_name: str, example: str) -> None:
    *_, line = run(example, "--epochs", "1")
    assert "validation accuracy" in line
    check(client, job_name, 32)


def test_prompts_are_chosen_for_grpo(run: Callable[..., list[str]], client: SchedulerClient, job_name: str) -> None:
    quietly = ("-W", "ignore::FutureWarning")  # of transformers, which TRL calls by older names
    *_, line = run("frameworks/grpo_prompts.py", "--epochs", "2", under=quietly)
    assert line.startswith("epoch 2: mean reward ")
    assert client.job(job_name).steps_fed_back == 4


def test_two_processes_of_accelerate_train_and_one_goes_on_alone(
    run: Callable[..., list[str]], client: SchedulerClient, job_name: str
) -> None:
    (together,) = run("frameworks/accelerate_loop.py", "--epochs", "1", under=LAUNCH)
    (alone,) = run("frameworks/accelerate_loop.py", "--epochs", "2")
    assert together.startswith("step 32: ") and alone.startswith("step 64: ")
    check(client, job_name, 64)
