"""The SQL store does what every store has to, and the contract notices one that doesn't."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from bss_service.journal.owning.membership import Member
from bss_service.journal.store import Store
from bss_service.journal.transaction import Transaction
from bss_service.testing import StoreContract
from tests.support.postgres import Postgres


class TestSqlStore(StoreContract):
    def open(self, folder: Path) -> Store:
        return Store(f"sqlite:///{folder}/store.sqlite")


class TestPostgresStore(StoreContract):
    @pytest.fixture(autouse=True)
    def of(self, postgres: Postgres) -> None:
        self.server = postgres

    def open(self, folder: Path) -> Store:
        return Store(self.server.database(folder.name))


class TestSharedStore(TestPostgresStore):
    def open(self, folder: Path) -> Store:
        return Store(self.server.database(folder.name), Member("http://127.0.0.1:1", 60))

    test_one_at_a_time_has_it_open = None  # type: ignore[assignment]  # owning/test_membership.py says what is


class Unfenced(Store):
    """Stores what follows a change that failed."""

    def commit(self, transaction: Transaction) -> "Future[None]":
        transaction.fence.closed = False
        return super().commit(transaction)


class Forgetful(Store):
    """Keeps no plans."""

    def commit(self, transaction: Transaction) -> "Future[None]":
        transaction.plans.clear()
        return super().commit(transaction)


class Early(Store):
    """Believes a snapshot before it is whole."""

    def load(self, job: str, *, whole: bool = False) -> Any:
        stored = super().load(job, whole=whole)
        return stored if stored is None or whole else stored.__class__(stored.spec, b"half", 2, [])


def broken(store: type[Store]) -> set[str]:
    """The names of the contract's tests that a store fails."""

    class Contract(StoreContract):
        def open(self, folder: Path) -> Store:
            return store(f"sqlite:///{folder}/store.sqlite")

    contract = Contract()
    return {name for name in dir(contract) if name.startswith("test_") and fails(getattr(contract, name))}


def fails(test: Callable[[], None]) -> bool:
    try:
        test()
    except Exception:
        return True
    return False


@pytest.mark.parametrize(
    ("store", "test"),
    [
        (Unfenced, "test_a_change_is_stored_whole_or_not_at_all_and_nothing_behind_its_fence"),
        (Forgetful, "test_a_plan_takes_the_place_of_those_that_begin_within_it"),
        (Early, "test_a_snapshot_counts_once_it_is_whole_and_the_journal_goes_on_behind_it"),
    ],
)
def test_the_contract_notices_what_a_store_does_wrong(store: type[Store], test: str) -> None:
    assert test in broken(store)
