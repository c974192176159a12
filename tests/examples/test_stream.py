from collections.abc import Callable

import pytest

from trainer_client import SchedulerClient


@pytest.mark.long  # tests/trainer_client/samples/test_streams.py has streams without starting processes
def test_run_again_it_goes_on_and_nothing_of_the_stream_is_lost(
    run: Callable[..., list[str]], client: SchedulerClient, job_name: str
) -> None:
    first, second = run("stream.py", "--epochs", "2"), run("stream.py", "--epochs", "4")
    assert second.pop(0) == "going on after 2 epochs"
    assert [line.split()[2] for line in first + second] == ["1024", "1024", "1024", "1088"]  # 1040 a time, 16 left over
    assert client.job(job_name).spec.samples == 1040
    assert client.job(job_name).steps_fed_back == 65
    assert first + second == run("stream.py", "--epochs", "4", "--job", f"{job_name}-whole")
