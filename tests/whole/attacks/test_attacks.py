"""Each attack in short: what it is to break holds."""

import pytest

from tests.whole.attacks.frame import Attack
from tests.whole.attacks.table import ATTACKS

LONG = {
    "a_million_passes",
    "scans",
    "lists",
    "old_batches",
    "passes_without_end",
}  # what they ask for is refused or bounded elsewhere too

GENEROUS = 10.0  # seconds that a step may take on a machine on which much else runs


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(attack, id=name, marks=[pytest.mark.long] if name in LONG else [])
        for name, attack in ATTACKS.items()
    ],
)
def test_what_an_attack_is_to_break_holds(attack: Attack) -> None:
    outcome = attack(1.0)
    assert outcome.holds(GENEROUS), outcome.figure
