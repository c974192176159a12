"""Each attack in short: what it is to break holds."""

import pytest

from tests.whole.attacks.frame import Attack
from tests.whole.attacks.table import ATTACKS


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_an_attack_is_to_break_holds(attack: Attack) -> None:
    outcome = attack(1.0)
    assert outcome.held, outcome.figure
