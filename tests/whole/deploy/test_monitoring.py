"""What deploy/ gives to Prometheus and Grafana, with a real Prometheus and a real service."""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bss_service.telemetry.metrics import Metrics
from tests.support.services import Service
from tests.support.simulated import spec, train
from trainer_client.client import SchedulerClient
from trainer_client.errors import UnknownJobError

DEPLOY = Path(__file__).parents[3] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/bss.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
TOKEN = "a-token-that-only-tests-use"
SECONDS = 60  # that a test waits for Prometheus

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="needs Debian's package prometheus"
)


def configured(folder: Path, service: str) -> Path:
    """A copy of the deployed configuration, but for where the service is, where its token is, and the pace."""
    (folder / "token").write_text(TOKEN)
    text = (DEPLOY / "prometheus/prometheus.yml").read_text()
    for deployed, here in (("service:8765", service), ("/tmp/token", f"{folder}/token"), ("15s", "1s")):
        assert deployed in text
        text = text.replace(deployed, here)
    copy = folder / "prometheus.yml"
    copy.write_text(text)
    shutil.copy(DEPLOY / "prometheus/alerts.yml", folder)
    return copy


class Prometheus:
    """A Prometheus that watches one service."""

    def __init__(self, folder: Path, service: str) -> None:
        self.log: list[str] = []
        command = ["prometheus", f"--config.file={configured(folder, service)}", f"--storage.tsdb.path={folder}/data"]
        self._process = subprocess.Popen(
            [*command, "--web.listen-address=127.0.0.1:0"], stderr=subprocess.PIPE, text=True
        )
        self._http = httpx.Client()
        listening = threading.Event()
        self._reader = threading.Thread(target=self._read_log, args=(listening,), daemon=True)
        self._reader.start()
        listening.wait(SECONDS)
        if not self._http.base_url.host:
            self.stop()
            pytest.fail(f"Prometheus did not start: {self.log}")
        until_true(
            lambda: self._http.get(self._http.base_url.join("/-/ready")).is_success
        )  # it listens before it can answer

    def _read_log(self, listening: threading.Event) -> None:
        assert self._process.stderr is not None
        with self._process.stderr:
            for line in self._process.stderr:
                self.log.append(line)
                if address := re.search(r'msg="Listening on" address=(\S+)', line):
                    self._http.base_url = httpx.URL(f"http://{address[1]}/api/v1/")
                    listening.set()
        listening.set()

    def ask(self, what: str, **parameters: str) -> Any:
        """The data of an answer of its interface."""
        answer = self._http.get(what, params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> Any:
        """The series that an expression has now."""
        return self.ask("query", query=expression)["result"]

    def stop(self) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait(SECONDS)
        self._reader.join()


@pytest.fixture
def guarded(start_service: Callable[..., Service]) -> Service:
    """A service with a token."""
    return start_service(BSS_TOKEN=TOKEN)


@pytest.fixture
def prometheus(tmp_path: Path, guarded: Service) -> Iterator[Prometheus]:
    """One that watches this service."""
    watching = Prometheus(tmp_path, f"127.0.0.1:{guarded.port}")
    yield watching
    watching.stop()


def use(client: SchedulerClient, round_: int) -> None:
    """What a scheduler is asked in the course of a day: right and wrong things."""
    job = spec("job")
    client.create_job(job)
    train(client, job, range(7 * round_, 7 * round_ + 7))
    with pytest.raises(UnknownJobError):
        client.job("nobody-made-it")


def until_true(condition: Callable[[], object], meanwhile: Callable[[int], object] = lambda _: None) -> None:
    """Go on with something until a condition holds."""
    for round_ in range(SECONDS):
        if condition():
            return
        meanwhile(round_)
        time.sleep(0.5)  # Prometheus tells nobody that it has read
    pytest.fail("Prometheus never had it")


@needs_prometheus
def test_prometheus_gets_in_and_every_panel_has_data(guarded: Service, prometheus: Prometheus) -> None:
    waiting = [expression.replace("$__rate_interval", "1m") for expression in EXPRESSIONS]

    def all_have_data() -> bool:
        waiting[:] = [expression for expression in waiting if not prometheus.query(expression)]
        return not waiting

    with guarded.client(token=TOKEN) as client:
        until_true(all_have_data, lambda round_: use(client, round_))
    [target] = prometheus.ask("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    rules = prometheus.ask("rules")["groups"][0]["rules"]
    assert {rule["health"] for rule in rules} == {"ok"}


@needs_prometheus
def test_promtool_finds_no_fault_in_the_configuration(tmp_path: Path) -> None:
    copy = configured(tmp_path, "service:8765")
    done = subprocess.run(["promtool", "check", "config", copy], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "SUCCESS: 1 rule files found" in done.stdout


@needs_prometheus
def test_each_alert_fires_when_it_should_and_not_before() -> None:
    rules = Path(__file__).with_name("alerts.test.yml")
    done = subprocess.run(["promtool", "test", "rules", rules], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = re.findall(r"alert: (\w+)", (DEPLOY / "prometheus/alerts.yml").read_text())
    assert set(alerts) == set(re.findall(r'alertname="(\w+)"', rules.read_text()))


def test_panels_have_numbers_of_their_own_and_the_source_that_is_provisioned() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    provisioned = (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text()
    [uid] = re.findall(r"uid: (\w+)", provisioned)
    sources = [part["datasource"] for panel in panels for part in (panel, *panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": uid} for source in sources)


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("file", ["grafana/dashboards/bss.json", "prometheus/alerts.yml"])
def test_only_metrics_that_exist_are_asked_for(file: str) -> None:
    text = Metrics().text().decode()
    exposed = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    asked = set(re.findall(r"\b((?:bss|process)_\w+?)(?:_bucket)?\b(?=[{\[\)\s\"])", (DEPLOY / file).read_text()))
    assert asked and asked <= exposed, asked - exposed
