"""nginx before services that share a store, as deploy/nginx has it: one address for all jobs."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.cluster import SECONDS, Cluster, until
from tests.support.postgres import Postgres, free_port
from tests.support.services import Service
from tests.support.simulated import order, spec, train
from trainer_client import SchedulerClient

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
CONFIGURED = Path(__file__).parents[3] / "deploy/nginx/nginx.conf"
TOKEN = "a-token-that-only-tests-use"
RUN = range(7)

pytestmark = pytest.mark.skipif(NGINX is None, reason="needs Debian's package nginx-light")


def configured(folder: Path, services: list[Service]) -> tuple[Path, str]:
    """A copy of the deployed configuration, but for where services and files are; its URL."""
    port, text = free_port(), CONFIGURED.read_text()
    assert len(re.findall(r"server service-\d:8765", text)) == len(services)
    for number, service in enumerate(services, 1):
        text = text.replace(f"service-{number}:8765", f"127.0.0.1:{service.port}")
    text = text.replace("listen 8080", f"listen 127.0.0.1:{port}").replace("/tmp/", f"{folder}/")
    copy = folder / "nginx.conf"
    copy.write_text("daemon off; master_process off;\n" + text)
    return copy, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def cluster(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    store = postgres.database("behind-nginx")
    made = Cluster(tmp_path_factory.mktemp("cluster"), store, "--term", "1", environment={"BSS_TOKEN": TOKEN})
    for _ in range(3):
        made.add()
    made.settle()
    yield made
    made.close()


@pytest.fixture(scope="module")
def url(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert NGINX is not None
    folder = tmp_path_factory.mktemp("nginx")
    file, url = configured(folder, cluster.services)
    command = [NGINX, "-c", file, "-e", "stderr"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            until(lambda: answers(url))
            yield url
        finally:
            process.terminate()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=SECONDS).is_success
    except httpx.ConnectError:
        return False


def test_every_job_is_reached_whoever_owns_it_and_no_address_of_the_inside_shows(
    cluster: Cluster, url: str, service: Service
) -> None:
    jobs = [spec(f"run-{k}", patience=1.0) for k in range(4)]
    with service.client() as alone:
        alone.create_job(spec("behind-no-nginx"))
        expected = order(train(alone, spec("behind-no-nginx"), RUN))
    with SchedulerClient(url, token=TOKEN, retries=100) as client:
        for job in jobs:
            client.create_job(job)
            np.testing.assert_array_equal(order(train(client, job, RUN)), expected)
        assert {state.spec.name for state in client.jobs().jobs} >= {job.name for job in jobs}
    owners = {cluster.owner_of(job.name, TOKEN).port for job in jobs}
    assert len(owners) > 1
    told = {"authorization": f"Bearer {TOKEN}"}
    for job in jobs:
        answer = httpx.get(f"{url}/v1/jobs/{job.name}", headers=told)
        assert (answer.status_code, answer.json()["next_step"]) == (200, len(RUN))
        assert "location" not in answer.headers
        assert httpx.get(f"{url}/v1/jobs/{job.name}").status_code == 401


def test_a_service_that_is_killed_behind_it_is_replaced(cluster: Cluster, url: str) -> None:
    job = spec("killed", patience=1.0)
    with SchedulerClient(url, token=TOKEN, retries=1000) as client:
        client.create_job(job)
        before = train(client, job, range(7))
        cluster.owner_of(job.name, TOKEN).kill()
        after = train(client, job, range(7, 14))
        again = [client.batches(job.name, 0, 14)]
    np.testing.assert_array_equal(order(before + after), order(again))
