from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pydantic
import pytest

from bss_service.core.action import Action
from bss_service.core.evidence import features
from bss_service.core.observation import FIELDS, Observation
from bss_service.core.samples.dynamics import NEEDED
from bss_service.policies import artefact
from bss_service.policies.base import create_policy
from bss_service.policies.shipped import shipped_judge
from tests.support.observations import observation
from tests.support.trained import artefacts, made_up, tensors


def seen(epoch: int, has_evidence: float = 1.0, right: float = 0.95) -> Observation:
    known = observation(epoch)
    vector = known.vector.copy()
    vector[[FIELDS.index("has_evidence"), FIELDS.index("right_labels")]] = has_evidence, right
    return replace(known, vector=vector, epoch=epoch)


def act(epoch: int, has_evidence: float = 1.0, right: float = 0.95, **parameters: Any) -> Action:
    policy = create_policy("evidence", parameters)
    return policy.act(seen(epoch, has_evidence, right), np.random.default_rng(0)).action


@pytest.mark.parametrize(("right", "pull"), [(0.95, 0.0), (0.91, 0.0), (0.89, 1.5), (0.5, 1.5)])
def test_heads_are_pulled_where_many_labels_seem_wrong(right: float, pull: float) -> None:
    assert act(9, right=right).pull == pull
    assert act(9, right=right, pull=0.5).pull == pull / 3


def test_it_shuffles_for_some_epochs_and_then_leaves_out_more_and_more() -> None:
    assert [act(epoch) for epoch in range(4)] == [Action()] * 4
    assert [act(epoch).left_out for epoch in range(4, 8)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert act(9) == Action(belief=0.45, probes=0.12)


def test_without_evidence_it_shuffles() -> None:
    assert act(9, has_evidence=0.0) == Action()


def test_its_parameters_are_those_of_the_rule() -> None:
    chosen = act(2, belief=0.3, start=2, ramp=1, probes=0.0, wrong_pairs="mask")
    assert chosen == Action(belief=0.3, wrong_pairs="mask")


def test_it_needs_the_loss_and_for_pairs_or_by_a_judge_of_ones_own_all_signals() -> None:
    assert create_policy("evidence", {}).needs() == {"loss": 0}
    assert set(create_policy("evidence", {"wrong_pairs": "mask"}).needs()) == set(NEEDED)
    _, data = judge_bytes()
    known = artefact.read_judge(data)
    own = create_policy("evidence", {"judge": known.sha256}, {known.sha256: known})
    assert set(own.needs()) == set(NEEDED)


def judge_bytes() -> tuple[dict[str, Any], bytes]:
    fields: dict[str, Any] = {"name": "own", "format": "bss-judge/1", "label": [], "modality": []}
    fields["feature_schema"] = features.SCHEMA_HASH
    return fields, artefact.write(fields, tensors(fields))


def test_it_reads_by_a_judge_that_was_uploaded() -> None:
    fields, data = judge_bytes()
    known = artefact.read_judge(data)
    policy = create_policy("evidence", {"judge": known.sha256}, {known.sha256: known})
    own = policy.own_judge()
    assert own is not None
    np.testing.assert_array_equal(own.label[0][0], tensors(fields)["label_0.weight"])
    assert create_policy("evidence", {}).own_judge() is None


@pytest.mark.parametrize("known", [{}, artefacts(made_up())])
def test_a_judge_that_is_not_there_is_named(known: Mapping[str, Any]) -> None:
    sha256 = next(iter(known), "0" * 64)
    with pytest.raises(pydantic.ValidationError, match="must be the hash of a judge that was uploaded"):
        create_policy("evidence", {"judge": sha256}, known)


def test_the_judge_that_is_shipped_fits_the_code() -> None:
    assert shipped_judge().judge().label[-1][1].shape == (3,)
    assert shipped_judge().manifest.training
