"""`bss backup`, and where `bss serve` runs."""

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from bss_cli.commands import app
from tests.support.services import Service
from tests.support.simulated import order, spec, take, train
from trainer_client.client import SchedulerClient

WITHOUT_POSIX = """
import sys
for name in ("fcntl", "grp", "pwd", "resource", "termios", "uvloop"):
    sys.modules[name] = None
"""
# Of these the hub's own library imports what Windows lacks, unless it really is on Windows.
OF_THE_HUB = ("integrations.transformers", "integrations.trl")

IMPORTS = f"""
OF_THE_HUB = {OF_THE_HUB}
import importlib, pkgutil, bss_cli, bss_service, trainer_client
for package in (bss_cli, bss_service, trainer_client):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(("__main__", *OF_THE_HUB)):
            importlib.import_module(module.name)
"""

PROGRAM = "from bss_cli.__main__ import main; main()"


def backup(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["backup", *arguments], env={"BSS_STORE": None})


def test_a_service_on_a_backup_goes_on_with_the_same_batches(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    job = spec("run-1")
    copy = tmp_path / "second" / "bss.sqlite"
    with Service(tmp_path / "first") as service, SchedulerClient(service.url) as client:
        client.create_job(job)
        train(client, job, range(9))
        done = backup(str(copy), "--store", str(tmp_path / "first" / "bss.sqlite"))  # while it runs
        assert (done.exit_code, done.stderr) == (0, "")
        handed_out, state = client.batches("run-1", 0, 9).indices, client.job("run-1")
        following = order(take(client, "run-1", range(9, 12)))
    assert [path.name for path in copy.parent.iterdir()] == ["bss.sqlite"]
    assert copy.stat().st_mode & 0o077 == 0
    with Service(tmp_path / "second") as service, SchedulerClient(service.url) as client:
        copied = client.job("run-1")
        assert copied.origins == {state.incarnation: 9} and copied.incarnation != state.incarnation
        assert copied.model_copy(update={"incarnation": state.incarnation, "origins": {}}) == state
        assert (client.batches("run-1", 0, 9).indices == handed_out).all()
        assert (order(take(client, "run-1", range(9, 12))) == following).all()


def test_a_backup_takes_the_place_of_a_file_only_by_force(tmp_path: Path) -> None:
    store, copy = tmp_path / "bss.sqlite", tmp_path / "copy.sqlite"
    with Service(tmp_path):
        pass
    copy.write_text("precious")
    refused = backup(str(copy), "--store", str(store))
    assert refused.stderr == f"error: FILE {str(copy)!r} is there already: --force puts the copy in its place\n"
    assert (refused.exit_code, copy.read_text()) == (1, "precious")
    assert backup(str(copy), "--store", str(store), "--force").exit_code == 0
    assert copy.read_bytes().startswith(b"SQLite format 3")
    assert backup(str(store), "--store", str(store), "--force").stderr.startswith("error: FILE must be another than")


def test_a_backup_never_lands_beside_the_log_of_another_database(tmp_path: Path) -> None:
    (tmp_path / "copy.sqlite-wal").touch()
    with Service(tmp_path):
        pass
    result = backup(str(tmp_path / "copy.sqlite"), "--store", str(tmp_path / "bss.sqlite"), "--force")
    assert "copy.sqlite-wal is there" in result.stderr
    assert not (tmp_path / "copy.sqlite").exists()


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    result = backup(str(tmp_path / "copy.sqlite"), "--store", str(tmp_path / "no-such.sqlite"))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: the store '{tmp_path}/no-such.sqlite' can't be copied: unable to open")
    assert list(tmp_path.iterdir()) == []


def without_posix(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    quiet = ["-W", "ignore:only soft file lock"]  # says a framework that an integration is for
    command = [sys.executable, *quiet, "-c", WITHOUT_POSIX + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_everything_imports_without_what_windows_lacks() -> None:
    done = without_posix(IMPORTS)
    said = [line for line in done.stderr.splitlines() if not line.startswith("WARNING:absl:")]  # Grain, of JAX
    assert (done.returncode, said) == (0, [])


def test_without_posix_serve_says_what_it_needs(tmp_path: Path) -> None:
    done = without_posix(PROGRAM, "serve", "--port", "0", "--store", f"{tmp_path}/bss.sqlite")
    assert done.returncode == 2
    assert done.stderr == "error: bss serve needs a POSIX system (Linux, macOS, WSL), to lock its store\n"


def test_without_posix_the_other_commands_work(tmp_path: Path) -> None:
    with Service() as service:
        assert without_posix(PROGRAM, "jobs", "--url", service.url).stdout == "no jobs yet\n"
    assert without_posix(PROGRAM, "token", "list", "--store", f"{tmp_path}/bss.sqlite").stdout == "no tokens yet\n"


def test_a_service_starts_without_what_the_other_commands_import() -> None:
    program = """
import sys
from bss_cli.__main__ import _program
_program(["serve", "--port", "0"])
import bss_service.http.server
print(sorted({"httpx", "torch", "trainer_client", "rich.markdown", "gymnasium", "bss_cli.commands"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
