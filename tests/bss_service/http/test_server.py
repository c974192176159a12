"""`bss serve`: what it starts with, who gets in, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from bss_cli.commands import app
from bss_service.http.tokens import Scope, Tokens
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import StepsRequest
from trainer_client.client import SchedulerClient
from trainer_client.errors import UnauthorisedError

BSS = str(Path(sys.executable).with_name("bss"))
TOKEN = "a-token-that-only-tests-use"
PATIENCE = 20  # seconds that a test waits for a process


def environment(**settings: str) -> dict[str, str]:
    """This process's, with these settings of the service and no others."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BSS_")} | settings


@contextmanager
def serving(folder: Path, *flags: str, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service with its store in `folder`, and its URL."""
    command = [BSS, "serve", "--port", "0", "--store", f"sqlite:///{folder}/bss.sqlite", "--log-format", "json", *flags]
    with subprocess.Popen(
        command, cwd=folder, env=environment(**settings), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            first = json.loads(process.stderr.readline())
            assert first["event"] == "listening"
            yield process, first["url"]
        finally:
            process.kill()


def refused(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """What a service says that can't start."""
    return subprocess.run(
        [BSS, "serve", *flags], cwd=folder, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[str]:
    """The URL of a service with a token."""
    with serving(folder, BSS_TOKEN=TOKEN) as (_, url):
        yield url


@pytest.fixture
def misconfigured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CliRunner]:
    """Runs `bss serve` in an empty folder, here, as far as its settings."""
    monkeypatch.chdir(tmp_path)
    for name in environment().keys() ^ os.environ.keys():
        monkeypatch.delenv(name)
    yield CliRunner()


def test_sigterm_ends_it_with_exit_code_0(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url):
        assert httpx.get(f"{url}/readyz").json() == {"status": "ready"}
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_job_goes_on_where_it_was_when_the_service_is_started_again(tmp_path: Path, end: signal.Signals) -> None:
    with serving(tmp_path) as (process, url), SchedulerClient(url) as client:
        client.create_job(JobSpec(name="run-1", samples=64, modalities=["image", "text"], batch_size=8))
        drawn = client.steps("run-1", StepsRequest(start=0, count=3)).batches.indices
        state = client.job("run-1")
        process.send_signal(end)
        process.wait(PATIENCE)
    with serving(tmp_path) as (_, url), SchedulerClient(url) as client:
        assert client.job("run-1") == state
        assert (client.batches("run-1", 0, 3).indices == drawn).all()


def test_a_second_service_on_the_same_file_is_refused(guarded: str, folder: Path) -> None:
    second = refused(folder, "--port", "0", "--store", f"sqlite:///{folder}/bss.sqlite")
    assert second.returncode == 1
    assert second.stderr == f"error: another service has the store '{folder}/bss.sqlite' open\n"


@pytest.mark.parametrize("link", ["link.sqlite", "linked/bss.sqlite"])
def test_a_second_service_on_the_same_file_by_another_name_is_refused(
    guarded: str, folder: Path, tmp_path: Path, link: str
) -> None:
    (tmp_path / "link.sqlite").symlink_to(folder / "bss.sqlite")
    (tmp_path / "linked").symlink_to(folder, target_is_directory=True)
    second = refused(tmp_path, "--port", "0", "--store", link)
    sentence = f"error: another service has the store '{folder}/bss.sqlite' open\n"
    assert (second.returncode, second.stderr) == (1, sentence)


@pytest.mark.parametrize("store", ["bss.sqlite", "./sub/bss.sqlite", "{folder}/bss.sqlite"])
def test_a_store_may_be_given_as_the_path_of_its_file(tmp_path: Path, store: str) -> None:
    path = store.format(folder=tmp_path)
    with serving(tmp_path, "--store", path) as (_, url):
        assert httpx.get(f"{url}/readyz").status_code == 200
        assert (tmp_path / path).read_bytes().startswith(b"SQLite format 3")


@pytest.mark.parametrize("host", ["::1", "[::1]", "localhost", "127.0.0.2"])
def test_all_names_of_loopback_need_no_token(tmp_path: Path, host: str) -> None:
    with serving(tmp_path, "--host", host) as (_, url):
        assert httpx.get(f"{url}/v1/jobs").json()["jobs"] == []


def test_kubernetes_service_links_are_passed_over_and_told(tmp_path: Path) -> None:
    (tmp_path / "bss.toml").write_text("port = 0")
    links = {"BSS_SERVICE_HOST": "10.0.0.1", "BSS_SERVICE_PORT": "8765", "BSS_PORT_8765_TCP": "tcp://10.0.0.1:8765"}
    process = subprocess.Popen(
        [BSS, "serve", "--log-format", "json"],
        cwd=tmp_path,
        env=environment(BSS_PORT="tcp://10.0.0.1:8765", **links),
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        told, listening = (json.loads(process.stderr.readline()) for _ in range(2))
        process.kill()
    assert (told["event"], told["name"]) == ("passed over: a Kubernetes service link, not a setting", "BSS_PORT")
    assert listening["event"] == "listening"


def test_a_port_that_is_taken_is_told(guarded: str, tmp_path: Path) -> None:
    port = guarded.rpartition(":")[2]
    second = refused(tmp_path, "--port", port)
    assert second.returncode == 1
    assert second.stderr == f"error: can't listen on 127.0.0.1 port {port}: Address already in use\n"


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    service = refused(tmp_path, "--port", "0", "--store", "sqlite:///file/bss.sqlite")
    assert service.returncode == 1
    assert service.stderr.startswith(f"error: the store '{tmp_path}/file/bss.sqlite' can't be opened")
    assert len(service.stderr.splitlines()) == 1


def test_with_a_token_a_request_without_it_gets_401(guarded: str) -> None:
    answer = httpx.get(f"{guarded}/v1/jobs")
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    with SchedulerClient(guarded, token=f"not {TOKEN}") as client, pytest.raises(UnauthorisedError):
        client.jobs()


def test_another_address_than_loopback_needs_a_token(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/bss.sqlite"
    flags = ["--host", "0.0.0.0", "--port", "0", "--store", store]
    sentence = "error: host 0.0.0.0 is not loopback: make a token with `bss token create`, or set BSS_TOKEN\n"
    unguarded = refused(tmp_path, *flags)
    assert (unguarded.returncode, unguarded.stderr) == (2, sentence)
    assert list(tmp_path.iterdir()) == []
    tokens = Tokens(store)
    text = tokens.create("trainer", Scope.TRAIN)
    with serving(tmp_path, "--host", "0.0.0.0") as (_, url), SchedulerClient(url, token=text) as client:
        assert client.jobs().jobs == []
    with serving(tmp_path, "--host", "0.0.0.0", BSS_TOKEN=TOKEN) as (_, url), SchedulerClient(url, token=TOKEN) as own:
        assert own.jobs().jobs == []
    tokens.revoke("trainer")
    assert refused(tmp_path, *flags).stderr == sentence


def test_the_store_is_for_its_user_alone(tmp_path: Path) -> None:
    with serving(tmp_path):
        modes = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir()}
    assert set(modes) >= {"bss.sqlite", "bss.sqlite-wal"}
    assert set(modes.values()) == {0}


def test_bss_takes_the_token_from_the_environment(guarded: str) -> None:
    def jobs(token: str | None) -> Result:
        return CliRunner().invoke(app, ["jobs", "--url", guarded], env={"BSS_TOKEN": token})

    assert jobs(TOKEN).stdout == "no jobs yet\n"
    assert jobs(None).exit_code == 1
    assert "token" in jobs(None).stderr


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--port", "65536"], "port: Input should be less than or equal to 65535, got '65536'"),
        (["--log-format", "xml"], "log_format: Input should be 'console' or 'json', got 'xml'"),
        (["--max-samples", "0"], "max_samples: Input should be greater than or equal to 1, got '0'"),
        (["--rate-limit", "0"], "rate_limit: Input should be greater than 0, got '0'"),
        (
            ["--store", "sqlite:bss.sqlite"],
            "store: must be an SQLite file, like bss.sqlite, or a URL, like postgresql://user@host/database, "
            "got 'sqlite:bss.sqlite'",
        ),
        (["--max-body-bytes", "1"], "max_body_bytes: Input should be greater than or equal to 1024, got '1'"),
    ],
)
def test_a_wrong_setting_is_told_with_its_value(misconfigured: CliRunner, flags: list[str], sentence: str) -> None:
    result = misconfigured.invoke(app, ["serve", *flags])
    assert result.stderr == f"error: {sentence}\n"
    assert result.exit_code == 2


def test_flags_come_before_the_environment_and_that_before_the_file(misconfigured: CliRunner) -> None:
    Path("bss.toml").write_text("port = 70000")
    assert "got 70000" in misconfigured.invoke(app, ["serve"]).stderr
    assert "got '80000'" in misconfigured.invoke(app, ["serve"], env={"BSS_PORT": "80000"}).stderr
    assert "got '90000'" in misconfigured.invoke(app, ["serve", "--port", "90000"], env={"BSS_PORT": "80000"}).stderr


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("prot = 8765", "prot in bss.toml is not a setting"),
        ("port = = 1", "bss.toml can't be read: Invalid value (at line 1, column 8)"),
    ],
)
def test_a_mistake_in_the_file_is_told(misconfigured: CliRunner, file: str, sentence: str) -> None:
    Path("bss.toml").write_text(file)
    result = misconfigured.invoke(app, ["serve"])
    assert (result.exit_code, result.stderr) == (2, f"error: {sentence}\n")


def test_a_wrong_token_is_not_told_back(misconfigured: CliRunner) -> None:
    result = misconfigured.invoke(app, ["serve"], env={"BSS_TOKEN": "too short"})
    assert (result.exit_code, result.stderr) == (
        2,
        "error: token must be at least 16 printable ASCII characters without spaces\n",
    )
