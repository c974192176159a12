"""Whether a policy helps: what may be said of pairs of runs, and what not."""

from typing import Any

import numpy as np
import pytest

from bss_service.errors import InvalidValueError
from bss_service.host.comparing import Run, compare, run_of
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.validation import ValidationReport
from tests.conftest import Trainer
from tests.support.simulated import spec


def run(policy: str, seed: int, accuracies: list[float], validated_on: int | None = None, **fields: Any) -> Run:
    """A run that validated every ten steps."""
    reports = [
        ValidationReport(step=10 * k + 10, loss=1.0, accuracy=accuracy, samples=validated_on)
        for k, accuracy in enumerate(accuracies)
    ]
    name = fields.pop("name", f"{policy}-{seed}")
    return Run(spec(name, seed=seed, policy=policy, **fields), ((0, PolicySpec(name=policy)),), reports)


def pairs(gains: list[float], policy: str = "balance") -> list[Run]:
    """A run of the policy and one of plain shuffling for each seed, whose best accuracies differ by so much."""
    return [
        one
        for seed, gain in enumerate(gains)
        for one in (run("uniform", seed, [0.3, 0.5, 0.4]), run(policy, seed, [0.3, 0.5 + gain, 0.4]))
    ]


def test_a_gain_whose_interval_is_above_0_helps() -> None:
    answer = compare(pairs([0.01, 0.02, 0.03, 0.04, 0.05]))
    (told,) = answer.policies
    half = 2.776445 * np.std([1, 2, 3, 4, 5], ddof=1) / np.sqrt(5) / 100  # t(0.975; 4), a table's
    assert (told.best.mean, told.best.low, told.best.high) == pytest.approx((0.03, 0.03 - half, 0.03 + half))
    assert (told.verdict, told.more_seeds, told.seeds) == ("helps", None, [0, 1, 2, 3, 4])
    assert answer.sentence == (
        "balance helps: +3.00 points of best validation accuracy over uniform, "
        "95 % interval [+1.04, +4.96] of 5 paired seeds, up to step 30."
    )


def test_a_loss_whose_interval_is_below_0_hurts() -> None:
    assert compare(pairs([-0.01, -0.02, -0.03, -0.04, -0.05])).sentence.startswith("balance hurts: -3.00 points")


def test_an_interval_that_holds_0_cannot_tell_and_says_how_many_seeds_would() -> None:
    (told,) = (answer := compare(pairs([0.03, -0.01, 0.01]))).policies
    assert told.verdict == "can't tell yet"
    assert (told.spread, told.spread_from) == (pytest.approx(0.02), "pairs")
    assert told.more_seeds == 34 - 3  # an effect of half a standard deviation takes 34 pairs, as tables say
    assert answer.sentence.startswith("can't tell yet whether balance helps: +1.00 points")
    assert answer.sentence.endswith("31 more seeds would tell a difference of this size with 80 % power.")


def test_one_pair_has_no_interval_however_large_its_difference() -> None:
    (told,) = (answer := compare(pairs([0.4]))).policies
    assert (told.verdict, told.best.mean, told.best.low, told.best.high) == (
        "can't tell yet",
        pytest.approx(0.4),
        None,
        None,
    )
    assert "no interval: one pair of runs tells nothing of other seeds" in answer.sentence
    assert answer.sentence.endswith(
        "its noise is not known: at least 4 validations, or how many samples they have, would tell."
    )


def test_of_one_pair_the_size_of_the_validation_sets_gives_a_noise() -> None:
    (told,) = (answer := compare([run("uniform", 1, [0.5], 400), run("balance", 1, [0.52], 400)])).policies
    assert told.spread_from == "validation samples"
    assert told.spread == pytest.approx(np.sqrt((0.5 * 0.5 + 0.52 * 0.48) / 400))
    assert told.more_seeds == 26  # 27 pairs find an effect of 0.57 standard deviations
    assert "a spread of 3.53 points, of the samples of the validation set alone" in answer.sentence


def test_of_one_pair_what_late_validations_vary_by_gives_a_noise_if_it_is_the_larger_one() -> None:
    shaky = [0.1, 0.2, 0.3, 0.4, 0.5, 0.3, 0.5, 0.3]
    (told,) = compare([run("uniform", 1, [0.4] * 8, 10_000), run("balance", 1, shaky, 10_000)]).policies
    assert (told.spread, told.spread_from) == (pytest.approx(0.2 / np.sqrt(2)), "late validations")


def test_differences_that_are_all_the_same_are_no_certainty() -> None:
    (told,) = compare(pairs([0.1, 0.1])).policies
    assert (told.verdict, told.best.low, told.more_seeds) == ("can't tell yet", None, None)


def test_more_policies_take_wider_intervals() -> None:
    alone = compare(pairs([0.01, 0.02, 0.03]))
    both = compare([*pairs([0.01, 0.02, 0.03]), *pairs([0.0, 0.0, 0.01], "bandit")[1::2]])
    assert [told.policy for told in both.policies] == ["balance", "bandit"]
    assert (alone.level, both.level) == (0.95, pytest.approx(0.975))
    assert alone.policies[0].best.low is not None
    assert both.policies[0].best.low is not None
    assert both.policies[0].best.low < alone.policies[0].best.low


def test_the_baseline_is_plain_shuffling_wherever_it_stands_else_the_first() -> None:
    assert compare(pairs([0.1])[::-1]).baseline == "uniform"
    assert compare([run("bandit", 0, [0.5]), run("balance", 0, [0.5])]).baseline == "bandit"


def test_jobs_are_compared_where_all_of_them_validated() -> None:
    answer = compare([run("uniform", 0, [0.5, 0.6]), run("balance", 0, [0.4, 0.5, 0.9])])
    assert answer.steps == [10, 20]
    assert answer.policies[0].best.mean == pytest.approx(-0.1)  # 0.9 came at a step that the other has not reached
    assert [point.mean for point in answer.policies[0].curve] == pytest.approx([-0.1, -0.1])


def test_a_long_curve_is_thinned_and_ends_with_the_last() -> None:
    answer = compare([run("uniform", 0, [0.5] * 2500), run("balance", 0, [0.5] * 2500)])
    assert len(answer.steps) == len(answer.policies[0].curve) == 1000
    assert answer.steps[-1] == 25_000


def test_a_job_without_a_partner_is_left_out_and_named() -> None:
    assert compare([*pairs([0.1]), run("balance", 7, [0.5])]).unpaired == ["balance-7"]


@pytest.mark.parametrize(
    ("field", "other", "value"),
    [
        ("samples", {"samples": 60}, [50, 60]),
        ("batch_size", {"batch_size": 10}, [8, 10]),
        ("tail", {"tail": "drop"}, ["carry", "drop"]),
    ],
)
def test_jobs_that_differ_are_refused_with_the_field_and_both_values(
    field: str, other: dict[str, Any], value: list[Any]
) -> None:
    with pytest.raises(
        InvalidValueError, match=f"same {field}: 'uniform-0' has {value[0]!r}, 'b' has {value[1]!r}"
    ) as told:
        compare([run("uniform", 0, [0.5]), run("balance", 0, [0.5], name="b", **other)])
    assert (told.value.field, told.value.value) == (field, value)


def test_horizons_are_compared_where_both_are_known() -> None:
    known, other = run("balance", 0, [0.5], horizon=100), run("uniform", 0, [0.5], horizon=200)
    assert compare([known, run("uniform", 0, [0.5])]).steps == [10]
    with pytest.raises(InvalidValueError, match="same horizon"):
        compare([known, other])


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([run("uniform", 0, [0.5]), run("balance", 0, [])], "'balance-0' has no validation report yet"),
        ([run("uniform", 0, [0.5]), run("balance", 1, [0.5])], r"balance have \[1\], those of uniform \[0\]"),
        ([run("uniform", 0, [0.5]), run("uniform", 1, [0.5])], "different policies: all have uniform"),
        ([run("uniform", 0, [0.5]), run("uniform", 0, [0.5], name="b")], "different seeds: 'uniform-0' and 'b'"),
        ([run("uniform", 0, [0.5], 300), run("balance", 0, [0.5], 400)], "same validation samples"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs: list[Run], sentence: str) -> None:
    with pytest.raises(InvalidValueError, match=sentence):
        compare(runs)


def test_reports_without_a_step_in_common_are_refused() -> None:
    late = run("balance", 0, [0.5, 0.5])
    with pytest.raises(InvalidValueError, match=r"'balance-0' did last at \[20\], 'uniform-0' at \[10\]"):
        compare([Run(late.spec, late.policies, late.reports[1:]), run("uniform", 0, [0.5])])


def test_a_job_that_was_swapped_is_another_treatment() -> None:
    trainer = Trainer("uniform")
    trainer.train(3)
    trainer.swap("balance", at="now")
    trainer.swap("fixed", at="now", kappa_loss=2.0)  # before balance drew anything
    assert run_of(trainer.job).policy == "uniform"
    trainer.train(1)
    assert run_of(trainer.job).policy == "uniform, fixed (kappa_loss=2.0) from step 3"
