"""Evidence of few signals: what is missing is read as missing, and wrong labels are told by what there is."""

from dataclasses import replace

import numpy as np
import pytest

from bss_service.core.evidence.features import LIMIT
from bss_service.core.evidence.partial import FIELDS, NAMES, PartialJudge, partial_features, without
from bss_service.core.samples.table import SampleTable
from bss_service.core.signals import BUILT_IN, Signals
from bss_service.policies.shipped import usual_partial_judge
from tests.support.mislabelled import SAMPLES, WRONG, measured, report

PAPER = ("similarity", "loss", "probability")


def table_of(*names: str, unimodal: int = 2, epochs: int = 6) -> SampleTable:
    """Of a run whose trainer sends these signals, of so many unimodal heads and the joint one."""
    table = SampleTable.empty(SAMPLES, Signals([BUILT_IN[name] for name in names], unimodal + 1))
    indices = np.arange(SAMPLES)
    for epoch in range(epochs):
        values = measured(indices, epoch)
        values["probability"] = values["probability"][:, -1 - unimodal :]
        sent = table.signals.joined({name: values[name] for name in names}, indices.shape)
        table.times_measured += np.uint32(1)
        table.measure(indices, np.full(SAMPLES, epoch), sent)
        table.refresh(0.6)
    return table


def auc(right: np.ndarray) -> float:
    return float((right[~WRONG][:, None] > right[WRONG]).mean())


def test_every_field_has_a_name_of_its_own() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize(
    ("names", "unimodal", "missing"),
    [
        (("loss",), 2, ("probability", "heads", "similarity")),
        (("loss", "similarity"), 2, ("probability", "heads")),
        (("loss", "probability"), 0, ("heads", "similarity")),
        (("loss", "probability"), 2, ("similarity",)),
    ],
)
def test_a_signal_that_is_not_sent_is_one_that_is_left_out(
    names: tuple[str, ...], unimodal: int, missing: tuple[str, ...]
) -> None:
    """So what was learnt by leaving signals out holds of jobs that lack them."""
    reports = [report(0), report(10)]
    whole, some = (
        partial_features(table_of(*PAPER), reports),
        partial_features(table_of(*names, unimodal=unimodal), reports),
    )
    np.testing.assert_allclose(some.of_sample, without(whole.of_sample, missing), atol=1e-6)
    for signal, fields in FIELDS.items():
        columns = some.of_sample[:, [NAMES.index(name) for name in fields]]
        assert columns.any() == (signal not in missing)


def test_what_is_unknown_of_a_sample_is_missing_there() -> None:
    table = table_of(*PAPER)
    table.latest["similarity"][3] = np.nan
    table.latest["probability"][4] = np.nan
    table.latest["loss"][5] = np.nan
    read = partial_features(table, [])
    assert np.isfinite(read.of_sample).all()
    assert np.abs(read.of_sample).max() <= LIMIT
    assert read.visited.tolist() == [i for i in range(SAMPLES) if i != 5]
    knows = {name: read.of_sample[:, NAMES.index(f"knows_{name}")] for name in ("similarity", "probability", "heads")}
    assert np.flatnonzero(knows["similarity"] == 0).tolist() == [3]
    assert np.flatnonzero(knows["probability"] == 0).tolist() == np.flatnonzero(knows["heads"] == 0).tolist() == [4]
    evidence = usual_partial_judge().judge(SAMPLES, 2, read)
    assert np.flatnonzero(np.isnan(evidence.right)).tolist() == [5]


def test_nothing_is_read_before_anything_was_measured() -> None:
    read = partial_features(table_of("loss", epochs=0), [])
    assert (len(read.visited), read.of_sample.shape) == (0, (0, len(NAMES)))


def test_a_loss_that_is_the_same_everywhere_or_negative_is_read_too() -> None:
    for losses in (np.zeros(SAMPLES), np.linspace(-3, 1, SAMPLES)):
        table = replace(table_of("loss"), latest={"loss": losses.astype(np.float32)})
        assert np.isfinite(partial_features(table, [report(1)]).of_sample).all()


@pytest.mark.parametrize("names", [("loss",), ("loss", "similarity"), ("loss", "probability"), PAPER])
def test_the_judge_that_comes_with_the_package_finds_wrong_labels(names: tuple[str, ...]) -> None:
    evidence = usual_partial_judge().judge(SAMPLES, 2, partial_features(table_of(*names), [report(0), report(60)]))
    assert auc(evidence.right) > 0.95
    assert evidence.right[~WRONG].mean() > evidence.right[WRONG].mean() + 0.3
    assert not evidence.rival.any()  # who it would be instead is not known, nor whose pair is wrong
    assert (evidence.pair == 1).all()


def test_layers_that_do_not_fit_are_refused() -> None:
    wrong = [(np.zeros((1, 3), np.float32), np.zeros(1, np.float32))]
    with pytest.raises(ValueError, match=f"layers must continue {len(NAMES)} inputs"):
        PartialJudge(wrong)
