from collections.abc import Callable

from trainer_client import SchedulerClient


def test_run_again_it_goes_on_as_if_it_had_not_stopped(
    run: Callable[..., list[str]], client: SchedulerClient, job_name: str
) -> None:
    first, second = run("plain_pytorch.py", "--epochs", "2"), run("plain_pytorch.py", "--epochs", "3")
    assert second.pop(0) == "going on after 2 epochs"
    assert first + second == run("plain_pytorch.py", "--epochs", "3", "--job", f"{job_name}-whole")
    assert client.job(job_name).steps_fed_back == 3 * 32
    assert all(line.endswith("drawn by balance") for line in first + second)
