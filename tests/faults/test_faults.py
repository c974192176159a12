"""A short run of `make faults`: the same programs each time, though never quite the same moments of death."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.explore import explore
from tests.faults.service import Service
from tests.faults.shared import SharedServices
from tests.support.postgres import Postgres

PROGRAMS = 15
FEW = 3


def test_random_programs_break_no_promise(tmp_path: Path) -> None:
    done: Counter[str] = Counter()
    with ThreadPoolExecutor(4) as pool:
        service = Service(tmp_path)
        try:
            explore(service, pool, done, PROGRAMS, seed=None)
        finally:
            service.close()
    assert done["programs"] == PROGRAMS
    assert done["kills"] >= PROGRAMS
    assert done["kills with requests in flight"] > 0


def test_random_programs_break_no_promise_of_services_that_share_a_store(postgres: Postgres, tmp_path: Path) -> None:
    done: Counter[str] = Counter()
    with ThreadPoolExecutor(4) as pool:
        service = SharedServices(tmp_path, postgres.database("faults"))
        try:
            explore(service, pool, done, FEW, seed=None)
        finally:
            service.close()
    assert done["programs"] == FEW
    assert done["kills"] >= FEW
