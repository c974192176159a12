"""What is usual for public sets, beside what the code released with the paper does."""

import torch
from torch import nn

from trainer_client.reference.recipes import PAPER
from trainer_client.reference.training import TrainingConfig, _optimiser


def test_what_is_usual_for_a_set_of_the_paper_is_what_its_released_code_does() -> None:
    """One step of SGD and of Adam on losses that are added up, with the weight decay that the code has."""
    for usual, rate, theirs in (
        (PAPER["kinetics-sounds"], 0.1, torch.optim.SGD),
        (PAPER["mmsd"], 1e-5, torch.optim.Adam),
    ):
        ours, other = (nn.Linear(3, 2, dtype=torch.float64) for _ in range(2))
        other.load_state_dict(ours.state_dict())
        config = TrainingConfig(
            optimiser=usual.optimiser, learning_rate=usual.learning_rate, weight_decay=usual.weight_decay
        )
        given = {"momentum": 0.9} if theirs is torch.optim.SGD else {"eps": 2e-8}  # Adam's ε sees twice the gradient
        optimisers = (
            _optimiser(ours.parameters(), config),
            theirs(other.parameters(), lr=rate, weight_decay=1e-4, **given),  # type: ignore[arg-type]
        )
        x = torch.arange(6, dtype=torch.float64).view(2, 3)
        for _ in range(3):
            for model, optimiser, share in zip((ours, other), optimisers, (0.5, 1.0), strict=True):
                optimiser.zero_grad()
                (share * model(x).square().sum()).backward()
                optimiser.step()
        torch.testing.assert_close(ours.weight, other.weight, rtol=1e-12, atol=0)
