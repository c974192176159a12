"""Values on their way to the host, and what marks a label there that was no class."""

import numpy as np
import pytest
import torch

from bss_service.core.signals import PAPER, Signal, Signals
from trainer_client import LabelError, measure
from trainer_client.exchange.outbox import FeedbackItem, feedback_request, restored, saved
from trainer_client.exchange.placement import Placement
from trainer_client.exchange.transfer import Transfer, packed
from trainer_client.logits import measurement as module

SIGNALS = Signals(PAPER, heads=3)


@pytest.fixture(params=["float32", "with a float64 signal", "loss alone"])
def marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Transfer:
    """A batch of 4 in which the label of row 2 is wrong, and on a device as far as `measure` knows."""
    monkeypatch.setattr(module, "_is_on_host", lambda labels: False)
    logits = torch.arange(20.0).sin().reshape(4, 5)
    measured = measure([logits, -logits], logits, torch.tensor([0, -100, 5, 4]))
    if request.param == "float32":
        return packed(measured, SIGNALS, 4)
    if request.param == "loss alone":
        return packed(measured, Signals(PAPER[1:2], heads=3), 4)
    own = Signals([Signal("own", "a number"), *PAPER], heads=3)
    return packed(measured | {"own": torch.zeros(4, dtype=torch.float64)}, own, 4)


def test_a_wrong_label_is_found_on_the_host_and_an_ignored_one_is_none(marked: Transfer) -> None:
    assert marked.wrong_labels().tolist() == [2]
    with pytest.raises(LabelError, match="labels must be classes or ignore_index, got another in row 2"):
        marked.read()


def test_the_error_names_step_and_sample(marked: Transfer) -> None:
    item = FeedbackItem(7, Placement(0, 1), marked, samples=np.array([40, 41, 42, 43]))
    with pytest.raises(LabelError, match="got another in step 7, row 2, sample 42"):
        feedback_request([item], batch_size=4, width=marked.arrived().shape[1])


def test_in_a_checkpoint_a_wrong_label_is_not_known(marked: Transfer) -> None:
    item = restored(saved(FeedbackItem(7, Placement(0, 1), marked)))
    assert isinstance(item, FeedbackItem)
    values = item.read()
    assert values is not None
    assert np.isnan(values[2]).any()
    assert not np.isnan(values[[0, 3]]).any()


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan, -torch.nan])
@pytest.mark.parametrize("operation", [lambda x: x, lambda x: x - x, lambda x: (x * 0).log(), lambda x: -x.sqrt()])
def test_what_a_diverged_model_makes_is_not_known_and_no_wrong_label(bad: float, operation: object) -> None:
    assert callable(operation)
    values = operation(torch.full((4, 5), bad))
    assert np.isnan(Transfer(values).read()[~np.isfinite(values.numpy())]).all()


def test_a_diverged_models_logits_are_no_wrong_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_on_host", lambda labels: False)
    joint = torch.zeros(4, 5)
    joint[0], joint[1, 1], joint[2, 2], joint[3, 0] = torch.nan, torch.inf, -torch.inf, -torch.inf
    values = packed(measure([joint, joint], joint, torch.arange(4)), SIGNALS, 4).read()
    assert np.isnan(values).any(axis=1).tolist() == [True, True, True, False]


@pytest.mark.gpu
def test_on_a_gpu_a_wrong_label_reaches_the_host() -> None:
    logits = torch.randn(4, 5, device="cuda")
    labels = torch.tensor([0, -100, 5, -1], device="cuda")
    own = Signals([Signal("own", "a number"), *PAPER], heads=3)
    measured = measure([logits, logits], logits, labels) | {"own": torch.zeros(4, dtype=torch.float64, device="cuda")}
    assert packed(measured, own, 4).wrong_labels().tolist() == [2, 3]
