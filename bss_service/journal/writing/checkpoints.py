"""Bringing what was committed from SQLite's log into its database, beside the commits instead of within one."""

import threading
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa
import structlog

from bss_service.errors import StoreLostError
from bss_service.journal.engine import reason

log = structlog.get_logger()

PAUSE: Final = 0.25  # seconds that a commit waits at least to be brought over


class Checkpoints:
    """A thread that empties SQLite's write-ahead log soon after each commit.

    A commit that finds the log long would do so itself, and keep all others waiting for the disk meanwhile.
    """

    def __init__(self, engine: sa.Engine, check: Callable[[], None]) -> None:
        """check: raises StoreLostError where the files are not those that were opened, which ends it."""
        self._engine = engine
        self._check = check
        self._due, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="bss-store-checkpoints", daemon=True)
        self._thread.start()

    def due(self) -> None:
        """Something was committed."""
        self._due.set()

    def close(self) -> None:
        """End; what the log still holds comes into the database when that is closed."""
        self._over.set()
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        while self._due.wait():
            self._due.clear()  # before the pause: the end may come at any time behind it, and wakes up then
            if self._over.wait(PAUSE):
                return
            try:
                self._check()
                with self._engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")  # waits for nobody
            except StoreLostError:
                return
            except sa.exc.SQLAlchemyError as error:  # a full disk perhaps: the log holds what it could not bring over
                log.warning("the store's log was not brought into its database", reason=reason(error))
