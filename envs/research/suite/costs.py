"""What a suite is going to cost, said before it runs."""

from collections.abc import Iterator

from envs.research.suite.spec import Suite
from trainer_client.reference.rivals import rival_class
from trainer_client.reference.rivals.base import Cost


def stated(suite: Suite) -> Iterator[str]:
    """Lines: how many runs, how long each task's are, and what each method costs beside plain training."""
    tasks, methods = len(suite.tasks), len(suite.methods)
    yield (
        f"tasks × methods × (trials + seeds): {tasks} × {methods} × ({suite.trials} + {suite.seeds}) = "
        f"{tasks * methods * (suite.trials + suite.seeds):,} runs"
    )
    for name in suite.tasks:
        usual = suite.usual(name)
        yield f"  {name}: epochs a run {usual.epochs}, samples a batch {usual.batch_size}"
    for cost, named in _by_cost(suite).items():
        yield f"  {cost}: {', '.join(named)}"
    measured = [name for name, method in suite.methods.items() if method.measure_first]
    if measured:
        yield f"  and a forward pass before the first step: {', '.join(measured)}"


def _by_cost(suite: Suite) -> dict[Cost, list[str]]:
    named: dict[Cost, list[str]] = {cost: [] for cost in Cost}
    for name, method in suite.methods.items():
        method.register()
        named[Cost.PLAIN if method.rival is None else rival_class(method.rival).cost].append(name)
    return {cost: names for cost, names in named.items() if names}
