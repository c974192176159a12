"""The profile `cluster` of docker-compose.yml on a real engine: train through nginx, kill a service, train on.

It takes minutes, most of them to build the image: `python -m pytest -m long tests/whole/deploy/test_composed.py`.
"""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
import yaml

from tests.support.cluster import until
from tests.support.postgres import free_port
from tests.support.services import Service
from tests.support.simulated import order, spec, take, train
from trainer_client import SchedulerClient

ROOT: Final = Path(__file__).parents[3]
IMAGES: Final = {  # of others, by what they are for in the composition
    name: made["image"]
    for name, made in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].items()
    if made.get("profiles") == ["cluster"] and "build" not in made
}
STAND_IN: Final = "bss-test-stand-in"
# What the images of others have, out of Debian's packages, where no registry of images can be reached.
DEBIAN: Final = r"""
FROM python:3.11-slim
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light postgresql prometheus \
 && rm -rf /var/lib/apt/lists/* /var/lib/postgresql \
 && useradd --system nginx \
 && install --directory --owner postgres --group postgres /var/lib/postgresql /var/lib/postgresql/data /run/postgresql \
 && install --directory --owner nobody /prometheus \
 && ln --symbolic --force --target-directory /usr/local/bin /usr/lib/postgresql/*/bin/*
RUN printf '%s\n' '#!/bin/sh' 'set -e' 'cd /var/lib/postgresql/data' 'if ! [ -e PG_VERSION ]; then' \
 'printf %s "$POSTGRES_PASSWORD" >/tmp/password' \
 'initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 --encoding=UTF8 -D .' \
 'echo "host all all all scram-sha-256" >>pg_hba.conf' \
 'echo "CREATE DATABASE $POSTGRES_USER" | postgres --single -D . postgres' \
 'fi' 'exec postgres -D . -c "listen_addresses=*"' >/usr/local/bin/as-postgres \
 && chmod 755 /usr/local/bin/as-postgres
ENTRYPOINT ["as-postgres"]
"""
MINUTES: Final = 15  # for an image
RUN: Final = range(70)  # ten epochs
JOBS: Final = 6
ASKED: Final = "service-1"  # from inside; it lives
TRAINED: Final = 20  # steps before a service is killed


def docker(*arguments: str, stdin: str = "") -> str:
    """What the engine says. Raises CalledProcessError."""
    command = ["docker", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, check=True, text=True, timeout=60 * MINUTES
    ).stdout.strip()


def is_there(*arguments: str) -> bool:
    try:
        docker(*arguments)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


class Composed:
    """The composition under a name of its own, on free ports."""

    def __init__(self, folder: Path) -> None:
        self.token = secrets.token_hex(24)
        self._name = f"bss-test-{os.getpid()}"
        self._ports = {"BSS_CLUSTER_PORT": free_port(), "PROMETHEUS_PORT": free_port()}
        self.url = f"http://127.0.0.1:{self._ports['BSS_CLUSTER_PORT']}"
        self._environment = {
            **os.environ,
            **{name: str(port) for name, port in self._ports.items()},
            "BSS_TOKEN": self.token,
            "BSS_TAG": "test",
            "BSS_BUILD_NETWORK": "host",
            "COMPOSE_HTTP_TIMEOUT": str(60 * MINUTES),  # an engine without layers copies images for each container
        }
        if Path(self._environment.get("PIP_FIND_LINKS", "")).is_dir():  # which a build can't see
            del self._environment["PIP_FIND_LINKS"]
        (folder / "empty").touch()  # instead of an .env of somebody's
        (folder / "images.yml").write_text(yaml.safe_dump({"services": self._images()}))
        plug_in = is_there("compose", "version")
        self._command = [
            *(["docker", "compose"] if plug_in else ["docker-compose"]),
            *("--env-file", f"{folder}/empty", "--project-name", self._name, "--project-directory", f"{ROOT}"),
            *("--file", f"{ROOT}/docker-compose.yml", "--file", f"{folder}/images.yml", "--profile", "cluster"),
        ]

    def _images(self) -> dict[str, dict[str, str]]:
        """Those of others: as they are named where they can be had, and else made of Debian's packages."""
        if all(is_there("image", "inspect", image) or is_there("pull", "--quiet", image) for image in IMAGES.values()):
            return {name: {"image": image} for name, image in IMAGES.items()}
        docker("build", "--network", "host", "--tag", STAND_IN, "-", stdin=DEBIAN)
        return {name: {"image": STAND_IN} for name in IMAGES}

    def do(self, *arguments: str) -> str:
        """What docker-compose says. Raises AssertionError."""
        done = subprocess.run(
            [*self._command, *arguments], env=self._environment, capture_output=True, text=True, timeout=60 * MINUTES
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout.strip()

    def kill(self, service: str) -> None:
        """kill -9 of all that is in its container."""
        self.do("kill", "-s", "SIGKILL", service)

    def metrics(self, query: str) -> dict[str, float]:
        """What Prometheus has seen of each service."""
        url = f"http://127.0.0.1:{self._ports['PROMETHEUS_PORT']}/api/v1/query"
        try:
            answer = httpx.get(url, params={"query": query}, timeout=5)
        except httpx.TransportError:
            return {}
        found: list[Any] = answer.json()["data"]["result"] if answer.is_success else []
        return {series["metric"]["instance"]: float(series["value"][1]) for series in found}

    def owner_of(self, job: str) -> str:
        """The service that has a job, asked from inside."""
        code = (
            "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', 8765); "
            f"c.request('GET', '/v1/jobs/{job}', headers={{'authorization': 'Bearer ' + os.environ['BSS_TOKEN']}}); "
            "a = c.getresponse(); print(a.headers.get('location', os.environ['BSS_ADVERTISE']))"
        )
        address = self.do("exec", "-T", ASKED, "python", "-c", code)
        return httpx.URL(address).host

    def last_words(self) -> str:
        """The end of all logs."""
        return self.do("logs", "--no-color", "--tail", "20")

    def close(self) -> None:
        """Remove all but the images, whose layers the next run builds on."""
        self.do("down", "--volumes", "--remove-orphans", "--timeout", "5")


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    if not is_there("info"):
        pytest.skip("needs a container engine with docker-compose")
    made = Composed(tmp_path_factory.mktemp("composed"))
    try:
        made.do("up", "--detach", "--build", *sorted(IMAGES))
        yield made
    finally:
        print(made.last_words())  # noqa: T201
        made.close()


@pytest.mark.long
def test_nothing_that_is_published_leaves_loopback_and_nobody_is_root(composed: Composed) -> None:
    for service in (*IMAGES, "service-1", "service-2", "service-3"):
        [shown] = json.loads(docker("inspect", composed.do("ps", "-q", service)))
        ports = [p for bound in shown["NetworkSettings"]["Ports"].values() for p in bound or []]
        assert {port["HostIp"] for port in ports} <= {"127.0.0.1"}
        assert shown["HostConfig"]["CapDrop"] == ["ALL"]
        assert shown["HostConfig"]["ReadonlyRootfs"] or service == "postgres"
        assert composed.do("exec", "-T", service, "id", "-u") != "0"


@pytest.mark.long
def test_jobs_train_through_nginx_as_if_no_service_had_been_killed(composed: Composed, service: Service) -> None:
    with service.client() as alone:
        alone.create_job(undisturbed := spec("not-composed"))
        expected = order(train(alone, undisturbed, RUN))
    until(lambda: sum(composed.metrics("bss_shards").values()) == 256, 60)
    assert composed.metrics('up{job="bss"}') == {f"service-{k}:8765": 1.0 for k in (1, 2, 3)}

    jobs = [spec(f"run-{k}", patience=1.0) for k in range(JOBS)]
    with SchedulerClient(composed.url, token=composed.token, retries=1000) as client:
        batches = {}
        for job in jobs:
            client.create_job(job)
            batches[job.name] = train(client, job, range(TRAINED))
        owners = {job.name: composed.owner_of(job.name) for job in jobs}
        assert len(set(owners.values())) > 1
        killed = next(owner for owner in owners.values() if owner != ASKED)
        composed.kill(killed)
        for job in jobs:
            batches[job.name] += train(client, job, range(TRAINED, RUN.stop))
            np.testing.assert_array_equal(order(batches[job.name]), expected)
            np.testing.assert_array_equal(order(take(client, job.name, RUN)), expected)
            assert client.job(job.name).steps_fed_back == len(RUN)
        assert killed not in {composed.owner_of(job.name) for job in jobs}
    until(lambda: composed.metrics('up{job="bss"}').get(f"{killed}:8765") == 0.0, 60)

    composed.do("up", "--detach", "--no-deps", "--force-recreate", killed)
    composed.do("kill", "-s", "SIGHUP", "balancer")  # its address may be another now
    until(lambda: sum(composed.metrics('up{job="bss"}').values()) == 3, 120)
    with SchedulerClient(composed.url, token=composed.token, retries=1000) as client:
        client.create_job(job := spec("run-after", patience=1.0))
        np.testing.assert_array_equal(order(train(client, job, RUN)), expected)
