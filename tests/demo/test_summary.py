"""Intervals, the table's rows, and the sentences about them."""

from dataclasses import replace
from statistics import stdev

import pytest

from demo.headline import beside_it, headline
from demo.plan import CONDITIONS
from demo.results import Results
from demo.summary import Interval, Row, mean_interval, paired_gain, rows, signed, with_interval


@pytest.mark.parametrize(
    ("freedom", "quantile"),  # of the usual tables, to four places
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (1000, 1.9623)],
)
def test_half_an_interval_is_the_tables_quantile_in_standard_errors(freedom: int, quantile: float) -> None:
    values = [float(k) for k in range(freedom + 1)]
    error = stdev(values) / len(values) ** 0.5
    assert mean_interval(values).half_width / error == pytest.approx(quantile, abs=1e-4)


def test_an_interval_of_three_values_computed_by_hand() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])  # s = 1, t = 4.3027, 4.3027 / √3 = 2.4842
    assert interval.mean == pytest.approx(2.0)
    assert interval.half_width == pytest.approx(2.4842, abs=1e-4)


def test_one_value_has_a_mean_and_no_interval() -> None:
    assert mean_interval([0.5]) == Interval(0.5, None)
    assert mean_interval([0.5]).verdict == "can't tell"


def test_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        mean_interval([])


def test_pairing_takes_away_what_the_seeds_have_in_common() -> None:
    gain = paired_gain([10.0, 50.0, 91.0], [9.0, 49.0, 90.0])
    assert gain.mean == pytest.approx(1.0)
    assert gain.half_width == pytest.approx(0.0, abs=1e-9)


def test_values_of_different_numbers_of_seeds_are_not_paired() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_gain([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(2.0, 1.0), "better"),
        (Interval(-2.0, 1.0), "worse"),
        (Interval(1.0, 1.0), "can't tell"),
        (Interval(-0.5, 1.0), "can't tell"),
    ],
)
def test_a_verdict_needs_an_interval_that_excludes_zero(interval: Interval, expected: str) -> None:
    assert interval.verdict == expected


@pytest.fixture
def table(results: Results) -> list[Row]:
    return rows(results)


def _judged(table: list[Row], gains: dict[str, Interval]) -> list[Row]:
    """The table with other gains of `evidence` on test, by condition."""
    return [
        replace(row, test=replace(row.test, gain=gains[row.condition.key])) if row.policy == "evidence" else row
        for row in table
    ]


def test_a_row_holds_means_over_seeds_in_points(table: list[Row]) -> None:
    row = next(r for r in table if r.policy == "evidence" and r.condition == CONDITIONS[0])
    assert row.test.accuracy.mean == pytest.approx(64.0)
    assert row.last.accuracy.mean == pytest.approx(54.0)
    for measure in (row.test, row.last):
        assert measure.gain is not None
        assert measure.gain.mean == pytest.approx(4.0)
        assert measure.gains == pytest.approx([3.0, 5.0])
    assert row.left_out == pytest.approx(0.25)


def test_the_baseline_has_no_gain_over_itself(table: list[Row]) -> None:
    assert {row.policy for row in table if row.test.gain is None} == {"uniform"}


def test_the_oracle_is_run_where_labels_are_wrong_and_asked_for_no_suspects(table: list[Row]) -> None:
    oracle = [row for row in table if row.policy == "oracle"]
    assert [row.condition.key for row in oracle] == ["emoji-noisy", "watch-noisy"]
    assert all(row.found is None for row in oracle)


def test_wrong_labels_are_found_where_there_are_any(table: list[Row], results: Results) -> None:
    found = {row.condition.key: row.found for row in table if row.policy == "evidence"}
    runs = results.of(CONDITIONS[0], "evidence")
    assert found["emoji-noisy"] == sum(suspect.is_wrong for run in runs for suspect in run.suspects) / 2
    assert (found["emoji-clean"], found["watch-clean"]) == (None, None)


def test_the_headline_says_for_each_data_set_and_state_whether_evidence_beat_uniform(table: list[Row]) -> None:
    gains = {
        "emoji-noisy": Interval(4.0, 1.5),
        "watch-noisy": Interval(0.5, 1.0),
        "emoji-clean": Interval(-2.0, 0.5),
        "watch-clean": Interval(-0.5, 1.0),
    }
    judged = [replace(row, found={"emoji": 67.6, "watch": 99.0}[row.condition.data]) for row in _judged(table, gains)]
    assert headline(judged) == (
        "With 40 % of the training labels drawn anew at random, evidence beats uniform on emoji (+4.0 points, 95 % "
        "interval +2.5 to +5.5) and can't be told from uniform on watch (+0.5 points, 95 % interval −0.5 to +1.5); of "
        "the 100 labels that it suspects most, 68 on emoji and 99 on watch really are wrong (mean over the seeds); "
        "with clean labels it loses to uniform on emoji (−2.0 points, 95 % interval −2.5 to −1.5) and can't be told "
        "from uniform on watch (−0.5 points, 95 % interval −1.5 to +0.5)."
    )


def test_the_headline_claims_nothing_from_one_seed(table: list[Row]) -> None:
    alone = dict.fromkeys(("emoji-noisy", "watch-noisy", "emoji-clean", "watch-clean"), Interval(5.0, None))
    assert "nothing is claimed" in headline(_judged(table, alone))


def test_without_both_policies_there_is_nothing_to_compare(table: list[Row]) -> None:
    assert "nothing to compare" in headline([row for row in table if row.policy != "evidence"])


def test_beside_it_stand_the_last_epoch_the_paper_and_the_oracle(table: list[Row]) -> None:
    both = "+4.0 points (95 % interval −8.7 to +16.7) on emoji and +4.0 points (95 % interval −8.7 to +16.7) on watch"
    assert beside_it(table) == (  # 4 ± 12.7062, of two seeds
        f"After the last epoch its validation accuracy differs from uniform's by {both}. The paper's policy, balance, "
        f"differs from uniform by {both}. The oracle, which sees no wrong label, differs from uniform by {both}."
    )
    assert beside_it([row for row in table if row.policy == "uniform"]) == ""


def test_numbers_are_written_with_a_true_minus_and_none_before_nothing() -> None:
    assert signed(-1.25) == "−1.2"
    assert signed(-0.04) == signed(0.04) == "+0.0"
    assert with_interval(Interval(-1.0, 2.0), sign=True) == "−1.0 ± 2.0"
    assert with_interval(Interval(61.0, None)) == "61.0"
