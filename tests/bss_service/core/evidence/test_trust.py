import numpy as np
import pytest

from bss_service.core.action import Action, WrongPairs
from bss_service.core.arrays import Float64
from bss_service.core.evidence.posterior import Evidence
from bss_service.core.evidence.trust import Trust, trust

NAN = np.nan


def evidence(right: list[float], wrong: list[list[float]] | None = None) -> Evidence:
    wrong = [[0.0, 0.0]] * len(right) if wrong is None else wrong
    return Evidence(np.float32(right), np.zeros(len(right), np.float32), np.float32(wrong))


def act(action: Action, known: Evidence | None, u: list[float] | None = None) -> Trust:
    samples = 4 if known is None else len(known.right)

    def uniforms() -> Float64:
        return np.full(samples, 0.5) if u is None else np.array(u)

    return trust(action, known, samples, uniforms)


def test_what_is_less_likely_right_than_believed_is_left_out() -> None:
    assert act(Action(belief=0.5), evidence([0.2, 0.5, 0.9, 0.49])).kept.tolist() == [False, True, True, False]


def test_what_nothing_is_known_of_is_believed() -> None:
    unknown = evidence([0.2, NAN, NAN], [[0.0, 0.0], [NAN, NAN], [NAN, 0.9]])
    assert act(Action(belief=0.5, wrong_pairs="leave_out"), unknown).kept.tolist() == [False, True, False]


@pytest.mark.parametrize("action", [Action(), Action(left_out=0.0, belief=0.9)])
def test_without_a_belief_or_a_share_everything_is_kept(action: Action) -> None:
    assert act(action, evidence([0.0, 0.1, 0.9])).kept.all()


def test_without_evidence_everything_is_kept() -> None:
    assert act(Action(belief=0.9), None).kept.tolist() == [True] * 4


def test_a_part_of_the_disbelieved_is_left_out_by_chance() -> None:
    kept = act(Action(belief=0.5, left_out=0.3), evidence([0.1] * 3 + [0.9]), [0.29, 0.31, 0.7, 0.0]).kept
    assert kept.tolist() == [False, True, True, True]


def test_where_nothing_would_be_kept_everything_is() -> None:
    assert act(Action(belief=0.5), evidence([0.1, 0.2])).kept.tolist() == [True, True]


WRONG = [[0.9, 0.0], [0.0, 0.6], [0.4, 0.4], [0.8, 0.8]]


@pytest.mark.parametrize(
    ("wrong_pairs", "kept"), [("keep", [True] * 3 + [False]), ("leave_out", [False, False, True, False])]
)
def test_wrong_pairs_are_kept_or_left_out(wrong_pairs: WrongPairs, kept: list[bool]) -> None:
    held = act(Action(belief=0.5, wrong_pairs=wrong_pairs), evidence([0.9, 0.9, 0.9, 0.1], WRONG))
    assert (held.kept.tolist(), held.masked) == (kept, None)


def test_of_a_masked_pair_the_wrong_modality_and_the_joint_head_do_not_count() -> None:
    held = act(Action(belief=0.5, wrong_pairs="mask"), evidence([0.9, 0.9, 0.9, 0.1], WRONG))
    assert held.kept.tolist() == [True, True, True, False]
    assert held.masked is not None
    assert held.masked.tolist() == [[True, False, True], [False, True, True], [False] * 3, [False] * 3]


def test_a_pair_is_as_likely_right_as_the_least_likely_of_its_modalities() -> None:
    assert evidence([0.9] * 3, [[0.2, 0.5], [0.0, 0.0], [NAN, NAN]]).pair.tolist()[:2] == [0.5, 1.0]
    assert np.isnan(evidence([0.9], [[NAN, NAN]]).pair[0])
    assert Evidence(np.float32([0.5]), np.float32([0.1]), np.empty((1, 0), np.float32)).pair.tolist() == [1.0]
