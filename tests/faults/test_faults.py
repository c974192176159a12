"""A short run of `make faults`: the same programs each time, though never quite the same moments of death."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tests.faults.explore import explore
from tests.faults.service import Service
from tests.faults.shared import SharedServices
from tests.support.postgres import Postgres

PROGRAMS = 15
FEW = 3


def explored(service: Service, programs: int) -> "Counter[str]":
    """What was done in so many programs against a service, which ends."""
    done: Counter[str] = Counter()
    with closing(service), ThreadPoolExecutor(4) as pool:
        explore(service, pool, done, programs, seed=None)
    return done


def test_random_programs_break_no_promise(tmp_path: Path) -> None:
    done = explored(Service(tmp_path), PROGRAMS)
    assert done["programs"] == PROGRAMS
    assert done["kills"] >= PROGRAMS
    assert done["kills with requests in flight"] > 0


def test_random_programs_break_no_promise_of_services_that_share_a_store(postgres: Postgres, tmp_path: Path) -> None:
    done = explored(SharedServices(tmp_path, postgres.database("faults")), FEW)
    assert done["programs"] == FEW
    assert done["kills"] >= FEW
