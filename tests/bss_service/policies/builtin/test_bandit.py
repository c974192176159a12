import math

import numpy as np
import pydantic
import pytest

from bss_service.core.action import NAMED_ACTIONS
from bss_service.core.samples.dynamics import NEEDED
from bss_service.policies.base import Choice, create_policy
from bss_service.policies.builtin.bandit import ARMS, Bandit
from tests.bss_service.core.worlds import decision
from tests.support.observations import observation

SEEN = observation(1)
NAMES = list(ARMS)
K = len(NAMES)


def play(bandit: Bandit, rounds: int, reward_of: dict[str, float], seed: int = 0) -> list[Choice]:
    rng = np.random.default_rng(seed)
    choices = []
    for _ in range(rounds):
        choices.append(bandit.act(SEEN, rng))
        reward = reward_of.get(choices[-1].detail["arm"], 0.0)
        bandit.learn(decision(0, 5, **choices[-1].fields(), reward=reward))
    return choices


def mixed(weights: list[float], epsilon: float) -> list[float]:
    exponentials = [math.exp(w) for w in weights]
    return [(1 - epsilon) * e / math.fsum(exponentials) + epsilon / K for e in exponentials]


def test_it_follows_exp3s_by_hand() -> None:
    """METHOD.md, section 6, over Python floats; α counts from t = 2."""
    eta, epsilon, rewards = 0.3, 0.2, {"balance": 0.7, "hard": -0.9, "anti": 0.1, "low_loss": 1.0}
    weights = [0.0] * K
    for t, choice in enumerate(play(Bandit(learning_rate=eta, exploration=epsilon, warm_up=0), 60, rewards), start=2):
        pi = mixed(weights, epsilon)
        assert list(choice.detail["probabilities"].values()) == pytest.approx(pi, rel=1e-9)
        arm = NAMES.index(choice.detail["arm"])
        assert choice.propensity == pytest.approx(pi[arm], rel=1e-9)
        grown = [w + eta * (rewards.get(NAMES[i], 0.0) / pi[i] if i == arm else 0) for i, w in enumerate(weights)]
        alpha = 1 / t
        weights = [
            math.log(
                (1 - alpha) * math.exp(w)
                + alpha / (K - 1) * math.fsum(math.exp(v) for j, v in enumerate(grown) if j != i)
            )
            for i, w in enumerate(grown)
        ]


def test_it_concentrates_on_the_arm_that_pays() -> None:
    choices = play(Bandit(), 400, {"low_loss": 1.0, **dict.fromkeys(set(NAMES) - {"low_loss"}, -0.2)})
    assert choices[-1].detail["probabilities"]["low_loss"] > 0.8


def test_it_moves_on_when_another_arm_pays() -> None:
    bandit = Bandit()
    play(bandit, 300, {"hard": 1.0})
    choices = play(bandit, 600, {"hard": -1.0, "anti": 1.0}, seed=1)
    probabilities = choices[-1].detail["probabilities"]
    assert max(probabilities, key=probabilities.__getitem__) == "anti"


def test_without_any_difference_in_reward_every_arm_is_played_alike() -> None:
    """Each of 6 arms is drawn by 1/6; χ² of 5 degrees of freedom exceeds 25.74 once in ten thousand."""
    choices = play(Bandit(warm_up=0), 3000, {})
    counts = np.array([sum(choice.detail["arm"] == name for choice in choices) for name in NAMES])
    assert ((counts - 500) ** 2 / 500).sum() < 25.74


def test_it_plays_what_it_says() -> None:
    for choice in play(Bandit(), 50, {"hard": 1.0}):
        assert choice.action == NAMED_ACTIONS[choice.detail["arm"]]


def test_the_first_intervals_are_plain_shuffling_and_teach_nothing() -> None:
    bandit = Bandit(warm_up=3)
    choices = play(bandit, 4, {"uniform": 1.0})
    assert [choice.detail["warm_up"] for choice in choices] == [True, True, True, False]
    assert [choice.propensity for choice in choices[:3]] == [1.0] * 3
    assert list(choices[3].detail["probabilities"].values()) == pytest.approx([1 / K] * K)


def test_no_arm_is_ever_out_of_the_question() -> None:
    choices = play(Bandit(exploration=0.1), 2000, {"hard": 1.0, "uniform": -1.0})
    assert min(min(choice.detail["probabilities"].values()) for choice in choices[2:]) >= 0.1 / K


@pytest.mark.parametrize("reward", [-11.0, 11.0])
def test_it_stays_finite_under_the_largest_rewards(reward: float) -> None:
    choices = play(Bandit(learning_rate=10, exploration=1e-6), 500, dict.fromkeys(NAMES, reward))
    assert np.isfinite(list(choices[-1].detail["probabilities"].values())).all()


def test_the_arms_of_the_issue_are_there() -> None:
    assert NAMES == ["uniform", "balance", "agreement", "low_loss", "hard", "anti"]


@pytest.mark.parametrize(("name", "value"), [("learning_rate", 0), ("exploration", 0), ("warm_up", -1)])
def test_a_wrong_parameter_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Bandit(**{name: value})


def test_its_arms_may_use_evidence() -> None:
    arms = ["uniform", "evidence", "evidence_pull"]
    bandit = create_policy("bandit", {"arms": arms, "warm_up": 0})
    rng = np.random.default_rng(0)
    picked = {bandit.act(SEEN, rng).detail["arm"] for k in range(40)}
    assert picked == set(arms)
    assert set(bandit.needs()) == set(NEEDED)
    assert set(create_policy("bandit", {}).needs()) == {"similarity", "loss"}


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [(["uniform", "best"], "must be one of uniform"), (["hard", "hard"], "must differ"), (["hard"], "at least 2")],
)
def test_arms_are_named_actions_two_at_least_and_each_once(arms: list[str], sentence: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=sentence):
        create_policy("bandit", {"arms": arms})
