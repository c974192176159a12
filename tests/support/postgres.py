"""A PostgreSQL server of the tests' own: made by its own programs in a folder, on a free port of loopback."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

_FOLDERS: Final = "usr/lib/postgresql/*/bin"  # of Debian, which has them on nobody's path


def programs() -> Path | None:
    """Where the newest version's are; None where there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/").glob(_FOLDERS))
    return folders[-1] if folders else None


class Postgres:
    """A server, stopped and started at will. It keeps no promise to a loss of power, which tests don't make."""

    def __init__(self, programs: Path, *, durable: bool = False) -> None:
        """durable: it syncs its log to the disk, as one that is measured must."""
        self._programs, self._fsync = programs, "on" if durable else "off"
        self.folder = Path(tempfile.mkdtemp(prefix="bss-postgres-"))
        self.port = free_port()
        if os.geteuid() == 0:  # as whom it does not run
            shutil.chown(self.folder, "postgres", "postgres")
        self._do("initdb", "--username=bss", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} "
        options += f"-c fsync={self._fsync}"
        self._do("pg_ctl", "start", "--wait", "--silent", f"--log={self.folder}/log", f"--options={options}")

    def stop(self, how: str = "fast") -> None:
        """Stop it: `fast` ends its connections, `immediate` is a crash."""
        self._do("pg_ctl", "stop", "--wait", "--silent", f"--mode={how}")

    def pause(self) -> None:
        """Let it hang, all of its processes."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def database(self, name: str, port: int | None = None) -> str:
        """The URL of a database, made where there is none; at another port, of a pooler perhaps."""
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
                connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
        return f"postgresql+psycopg://bss@127.0.0.1:{port or self.port}/{name}"

    def ask(self, database: str, query: str) -> list[tuple[Any, ...]]:
        """What a query finds, as an administrator."""
        with psycopg.connect(self._dsn(database), autocommit=True) as connection:
            cursor = connection.execute(query)  # type: ignore[call-overload]
            return list(cursor.fetchall()) if cursor.description else []

    def processor_seconds(self) -> float:
        """User and system time of its processes, of those that have ended too."""
        ticks = 0
        for number, process in enumerate(self._processes()):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15] if number == 0 else fields[11:13]))  # the first's: its children's, too
        return ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End it, and remove its folder."""
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def _dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=bss dbname={database}"

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            os.kill(process, number)

    def _processes(self) -> list[int]:
        """The first, and its children."""
        first = int((self.folder / "postmaster.pid").read_text().split()[0])
        return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]

    def _do(self, program: str, *arguments: str) -> None:
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        command = [self._programs / program, *arguments, f"--pgdata={self.folder}"]
        with tempfile.TemporaryFile() as output:  # no pipe: the server would keep it open
            done = subprocess.run(
                command, cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=False, **user
            )
            output.seek(0)
            assert done.returncode == 0, output.read().decode() + _tail(self.folder / "log")


def _tail(log: Path) -> str:
    return log.read_text()[-2000:] if log.exists() else ""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of a worker."""
    found = programs()
    if found is None:
        pytest.skip("needs PostgreSQL's server: apt-get install postgresql")
    server = Postgres(found)
    try:
        yield server
    finally:
        server.close()


def free_port() -> int:
    """One that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
