"""What the completions of a prompt were rewarded with, in reinforcement learning."""

from typing import Final

import torch
from torch import Tensor

from bss_service.core.signals import LOSS, SIMILARITY, Signal
from trainer_client.logits.forms import form_of

REWARD: Final = Signal("reward", "mean reward of the prompt's completions")
VARIANCE: Final = Signal("reward_variance", "of the rewards of the prompt's completions", low=0)
REWARDED: Final = (REWARD, VARIANCE, LOSS, SIMILARITY)


@torch.no_grad()
def measure_rewards(rewards: Tensor, completions: int) -> dict[str, Tensor]:
    """The signals of g prompts, each (g,), by the rewards of their completions.

    rewards: (g·k,), those of a prompt in a row; NaN: not known, and left out. completions: k, of each prompt. Gives
    `reward`, their mean; `reward_variance`, with denominator k: p(1 − p) of a task that is solved or not, the
    learnability of Foster et al. 2025, "Learning to reason at the frontier of learnability"; and what policies draw by:
    `loss`, which is −reward, so that policies that prefer a low loss begin with what is easy, and `similarity`,
    1/(1 + standard deviation), 1 where all completions were rewarded alike, which a group-relative advantage learns
    nothing from. Raises TypeError or ValueError for another form.
    """
    if not isinstance(rewards, Tensor):
        raise TypeError(f"rewards must be a tensor (g·k,), got {form_of(rewards)}")
    if rewards.ndim != 1 or not rewards.is_floating_point() or completions < 1 or len(rewards) % completions:
        raise ValueError(
            f"rewards must be floating of shape (g·k,) with k = {completions} of each prompt, got {form_of(rewards)}"
        )
    by_prompt = rewards.detach().float().view(-1, completions)
    mean = by_prompt.nanmean(dim=1)
    variance = (by_prompt - mean[:, None]).square().nanmean(dim=1)
    return {
        REWARD.name: mean,
        VARIANCE.name: variance,
        LOSS.name: -mean,
        SIMILARITY.name: 1 / (1 + variance.sqrt()),
    }
