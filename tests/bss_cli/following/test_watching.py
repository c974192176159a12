"""`bss watch` while the service is away."""

import signal
import subprocess
import time
from pathlib import Path

from bss_cli.rendering import WatchView
from bss_service.protocol.training import StepsRequest
from tests.bss_cli.conftest import BSS, PATIENCE, begin
from tests.support.services import Service
from trainer_client.client import SchedulerClient


def test_watch_says_that_the_service_is_away_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    with Service(tmp_path) as service, SchedulerClient(service.url) as client:
        job = begin(client, "uniform")
        command = [BSS, "watch", job, "--json", "--interval", "0.1", "--url", service.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            looks = (WatchView.model_validate_json(line) for line in process.stdout)
            assert next(looks).outage is None
            service.stop()
            away = next(look for look in looks if look.outage is not None)
            service.start()
            client.steps(job, StepsRequest(start=1, count=2))
            back = next(look for look in looks if look.state.next_step == 3)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert f"{service.url} did not answer" in (away.outage or "")
    assert away.state.next_step == 1  # as it was seen last
    assert back.outage is None


def test_watch_shows_the_outage_and_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    with Service(tmp_path) as service, SchedulerClient(service.url) as client:
        job = begin(client, "uniform")
        command = [BSS, "watch", job, "--interval", "0.1", "--url", service.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert "speed" in next(line for line in process.stdout if "speed" in line)
            service.stop()
            assert "out of reach, asked again" in next(line for line in process.stdout if "service" in line)
            process.send_signal(signal.SIGINT)
        assert process.returncode == 0


def test_ctrl_c_ends_a_watch_of_a_service_that_does_not_answer(tmp_path: Path) -> None:
    with Service(tmp_path) as service, SchedulerClient(service.url) as client:
        job = begin(client, "uniform")
        command = [BSS, "watch", job, "--json", "--interval", "0.1", "--url", service.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            service.process.send_signal(signal.SIGSTOP)
            time.sleep(1)  # in the middle of a call, which would wait for ten seconds
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)
            took = time.monotonic() - began
        service.process.send_signal(signal.SIGCONT)
    assert process.returncode == 0
    assert took < 5
