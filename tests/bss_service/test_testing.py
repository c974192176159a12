"""The launcher of a service: what it hands on, what it says, and that nothing of it stays behind."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE

import httpx
import pytest

from bss_service.testing import ServiceProcess, ServiceStartError, service
from bss_service.testing.service import listening_url

TOKEN = "a-token-that-only-tests-use"
LISTENS = 'print("listening at http://127.0.0.1:9", flush=True); import time; '
Replace = Callable[[str], None]


@pytest.fixture
def replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Puts another program in the place of `bss`, where this process would import it from."""

    def replace(program: str) -> None:
        package = tmp_path / "bss_cli"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(program)
        monkeypatch.syspath_prepend(tmp_path)

    return replace


def answers(url: str, **headers: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/jobs", headers=headers, trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_it_ends_with_its_block_even_when_that_fails() -> None:
    with pytest.raises(RuntimeError, match="on purpose"), ServiceProcess() as service:
        assert answers(service.url)
        raise RuntimeError("on purpose")
    assert not answers(service.url)
    assert service.process.returncode == 0


def test_killed_or_stopped_it_starts_again_on_the_same_port(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path) as service:
        url = service.url
        service.kill()
        assert service.process.returncode == -signal.SIGKILL
        assert answers(service.start().url)
        assert service.stop() == 0
        assert not answers(url)
        assert service.start().url == url
    assert sum("listening" in line for line in service.log) == 3


def test_a_folder_of_the_callers_keeps_store_and_log(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path):
        pass
    assert {"bss.sqlite", "service.log"} <= {path.name for path in tmp_path.iterdir()}


def test_a_folder_of_its_own_goes_with_it() -> None:
    with ServiceProcess() as service:
        assert (service.folder / "bss.sqlite").exists()
    assert not service.folder.exists()


def test_a_store_may_be_elsewhere(tmp_path: Path) -> None:
    with ServiceProcess(store=f"sqlite:///{tmp_path}/elsewhere.sqlite") as service:
        assert not (service.folder / "bss.sqlite").exists()
    assert (tmp_path / "elsewhere.sqlite").exists()


def test_settings_of_another_service_do_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BSS_TOKEN", TOKEN)
    monkeypatch.setenv("BSS_PORT", "not a port")
    with ServiceProcess() as service:
        assert service.token is None
        assert answers(service.url)


def test_its_own_settings_and_flags_do() -> None:
    with ServiceProcess(flags=["--log-format", "json"], environment={"BSS_TOKEN": TOKEN}) as service:
        assert service.token is not None
        assert TOKEN not in repr(service.token)
        assert not answers(service.url)
        assert answers(service.url, authorization=f"Bearer {service.token.get_secret_value()}")
        assert service.log[0].startswith("{")


def test_it_runs_the_code_that_its_caller_imports(replace: Replace) -> None:
    replace(LISTENS + "time.sleep(60)")
    with ServiceProcess() as service:
        assert (service.url, service.port) == ("http://127.0.0.1:9", 9)


def test_one_that_ignores_sigterm_is_killed(replace: Replace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STOP_SECONDS", 0.1)
    replace(f"import signal; signal.signal({signal.SIGTERM}, signal.SIG_IGN); {LISTENS} time.sleep(60)")
    with ServiceProcess() as stubborn:
        assert stubborn.stop() == -signal.SIGKILL


def test_one_that_cannot_start_is_named_with_the_end_of_its_log() -> None:
    with pytest.raises(ServiceStartError, match=r"(?s)did not start; the end of its log:.*No such option: --nonesuch"):
        ServiceProcess(flags=["--nonesuch"]).start()


def test_one_that_says_nothing_is_given_up(replace: Replace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "START_SECONDS", 3)  # within which even a busy machine starts Python
    replace("import time; print('hm', flush=True); time.sleep(60)")
    silent = ServiceProcess()
    with pytest.raises(ServiceStartError, match="hm"):
        silent.start()
    assert silent.process.returncode is not None


def test_one_that_nobody_holds_any_more_ends(replace: Replace) -> None:
    replace(LISTENS + "time.sleep(60)")
    forgotten = ServiceProcess().start()
    process, folder = forgotten.process, forgotten.folder
    del forgotten
    gc.collect()
    assert process.returncode == -signal.SIGTERM
    assert not folder.exists()


def test_no_ctrl_c_of_its_callers_terminal_reaches_it(replace: Replace) -> None:
    replace(LISTENS + "time.sleep(60)")
    with ServiceProcess() as service:
        assert os.getsid(service.process.pid) == service.process.pid


CALLER = """
import sys
from bss_service.testing import ServiceProcess
service = ServiceProcess().start()
print(service.process.pid, service.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def caller() -> Iterator["subprocess.Popen[str]"]:
    """A program that starts a service, says which, and ends with its standard input, leaving the service as it is."""
    command = [sys.executable, "-X", "dev", "-c", CALLER]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as process:
        yield process


def test_it_does_not_outlive_a_caller_that_is_killed(caller: "subprocess.Popen[str]") -> None:
    assert caller.stdout is not None
    pid = int(caller.stdout.readline().split()[0])
    caller.kill()
    deadline = time.monotonic() + 20
    while runs(pid):
        assert time.monotonic() < deadline, "the service is still there"
        time.sleep(0.05)


def test_a_caller_that_just_ends_leaves_neither_process_nor_folder(caller: "subprocess.Popen[str]") -> None:
    assert caller.stdout is not None
    pid, folder = caller.stdout.readline().split()
    assert caller.communicate(timeout=30) == ("", "")
    assert not runs(int(pid))
    assert not Path(folder).exists()


def runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("log", "url"),
    [
        ('Warning: not JSON\n{"event": "listening", "url": "http://127.0.0.1:1234"}\n', "http://127.0.0.1:1234"),
        ('{"url": "http://127.0.0.1:1234", "store": "sqlite:///b", "event": "listening"}\n', "http://127.0.0.1:1234"),
        ("2026 [info ] listening   store=sqlite:///b url=http://[::1]:80\n2026 [info ] more\n", "http://[::1]:80"),
        ("2026 [info ] listening   store=sqlite:///b url=http://127.0.0.1:12", None),
        ("2026 [info ] asked at http://127.0.0.1:12\n", None),
        ("", None),
    ],
)
def test_the_url_is_read_from_the_log_once_its_line_is_whole(log: str, url: str | None) -> None:
    assert listening_url(log) == url
