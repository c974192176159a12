"""What is said of a suite before it runs."""

from envs.research.suite.costs import stated
from envs.research.suite.spec import Suite


def test_runs_and_what_methods_cost_beside_plain_training() -> None:
    methods = {
        "uniform": {},
        "bss_h": {"policy": "curriculum", "measure_first": True},
        "mmpareto": {"rival": "mmpareto"},
    }
    suite = Suite.model_validate({"tasks": {"a": {"data": "emoji"}, "b": {"data": "crema-d"}}, "methods": methods})
    assert [*stated(suite)] == [
        "tasks × methods × (trials + seeds): 2 × 3 × (8 + 5) = 78 runs",
        "  a: epochs a run 25, samples a batch 64",
        "  b: epochs a run 120, samples a batch 32",
        "  as plain training: uniform, bss_h",
        "  a backward pass for each loss: mmpareto",
        "  and a forward pass before the first step: bss_h",
    ]
