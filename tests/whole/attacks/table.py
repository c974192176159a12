"""All attacks. To add one: write a function from seconds to an Outcome, and name it here."""

from collections.abc import Mapping
from typing import Final

from tests.whole.attacks import filling, holding, looking, planning
from tests.whole.attacks.frame import Attack

ATTACKS: Final[Mapping[str, Attack]] = {
    attack.__name__: attack
    for attack in (
        planning.a_million_passes,
        planning.large_plans,
        planning.a_stop_while_it_plans,
        holding.requests_left_behind,
        holding.requests_held,
        holding.a_page_of_another_site,
        looking.scans,
        looking.lists,
        looking.old_batches,
        filling.jobs_without_end,
        filling.passes_without_end,
        filling.batches_behind_a_trainers_back,
    )
}
