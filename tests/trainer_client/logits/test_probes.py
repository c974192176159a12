"""Unimodal heads for models that have none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from trainer_client import EVIDENCE, UnimodalProbes, ValidationMeter, measure

CLASSES, SAMPLES = 4, 64


class Fusion(nn.Module):
    """A model with a joint head alone, which draws random numbers as it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.audio = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.video = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.joint = nn.Sequential(nn.Dropout(0.3), nn.Linear(32, CLASSES))

    def forward(self, audio: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.joint(torch.cat([self.audio(audio), self.video(video)], 1))
        return logits


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The sound tells the classes; the video is noise."""
    torch.manual_seed(1)
    labels = torch.randint(CLASSES, (SAMPLES,))
    return torch.randn(CLASSES, 6)[labels] + 0.3 * torch.randn(SAMPLES, 6), torch.randn(SAMPLES, 8), labels


def train(measuring: Callable[[Fusion], Any], steps: int = 30) -> tuple[Fusion, list[torch.Tensor]]:
    """The model and all of its gradients."""
    audio, video, labels = data()
    torch.manual_seed(0)
    model = Fusion()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    of_step = measuring(model)
    gradients: list[torch.Tensor] = []
    for _ in range(steps):
        logits = model(audio, video)
        loss = cross_entropy(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        gradients += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimiser.step()
        of_step(logits, labels)
    return model, gradients


def test_a_model_trains_bit_for_bit_as_without_them() -> None:
    plain, gradients = train(lambda model: lambda logits, labels: None)

    def probed(model: Fusion) -> Any:
        return UnimodalProbes({"audio": model.audio, "video": model.video}, CLASSES).measure

    model, with_probes = train(probed)
    assert all(torch.equal(a, b) for a, b in zip(gradients, with_probes, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), model.state_dict().values(), strict=True))
    assert len(gradients) == 30 * len(list(plain.parameters()))


def test_they_tell_which_modality_knows_the_classes() -> None:
    measured: list[dict[str, torch.Tensor]] = []

    def probed(model: Fusion) -> Any:
        probes = UnimodalProbes({"audio": model.audio, "video": model.video}, CLASSES)
        return lambda logits, labels: measured.append(probes.measure(logits, labels))

    _, _ = train(probed)
    assert set(measured[0]) == {signal.name for signal in EVIDENCE}
    torch.testing.assert_close(measured[0]["probability"][:, :2], torch.full((SAMPLES, 2), 1 / CLASSES))
    audio, video, joint = measured[-1]["probability"].mean(0).tolist()
    assert audio > 0.5 and audio > video
    torch.testing.assert_close(measured[-1]["loss"].mean().exp().reciprocal().item(), joint, rtol=0.3, atol=0.1)


def test_the_loss_is_that_of_the_joint_head_and_samples_without_a_label_teach_nothing() -> None:
    encoder = nn.Linear(6, 16)
    audio, _, labels = data()
    with UnimodalProbes({"audio": encoder}, CLASSES) as probes, torch.no_grad():
        joint = nn.Linear(16, CLASSES)(encoder(audio))
        measured = probes.measure(joint, torch.full_like(labels, -100))
        assert "similarity" not in measured and measured["loss"].isnan().all()
        assert (probes.logits()[0] == 0).all()
        measured = probes.measure(joint, labels)
        torch.testing.assert_close(measured["loss"], measure([], joint, labels)["loss"])
        assert (probes.logits()[0] != 0).any()


def test_a_state_goes_on_where_it_was() -> None:
    encoder = nn.Linear(6, 16)
    audio, _, labels = data()
    joint = torch.zeros(SAMPLES, CLASSES)
    one, other = (UnimodalProbes({"audio": encoder}, CLASSES) for _ in range(2))
    for _ in range(3):
        encoder(audio)
        one.measure(joint, labels)
    other.load_state_dict(one.state_dict())
    for probes in (one, other):
        probes.measure(joint, labels)
    assert torch.equal(one.logits()[0], other.logits()[0])
    with pytest.raises(ValueError, match=r"modalities must be \['video'\], got \['audio'\]"):
        UnimodalProbes({"video": encoder}, CLASSES).load_state_dict(one.state_dict())
    one.close()
    with pytest.raises(RuntimeError, match="the encoder of audio has not run"):
        one.logits()


@pytest.mark.parametrize("shape", [(5, 8), (5, 7, 8), (5, 8, 3, 3)], ids=["features", "places", "pixels"])
def test_encoders_of_any_usual_output_are_probed(shape: tuple[int, ...]) -> None:
    class Encoder(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            return x, None

    encoder = Encoder()
    probes = UnimodalProbes({"a": encoder}, CLASSES)
    encoder(torch.zeros(shape, dtype=torch.bfloat16))
    probes.measure(torch.zeros(5, CLASSES), torch.zeros(5, dtype=torch.int64))
    assert probes.state_dict()["a"]["weight"].shape == (CLASSES, 8)


def test_an_output_that_is_no_features_is_refused() -> None:
    encoder = nn.Embedding(3, 4)
    UnimodalProbes({"text": encoder}, CLASSES, pool=lambda output: output[..., 0].long())
    UnimodalProbes({"text": encoder}, CLASSES)
    with pytest.raises(TypeError, match=r"pool must be given for an encoder whose output is float32 of shape \(4,\)"):
        encoder(torch.tensor(1))


def test_a_validation_is_gathered_from_logits() -> None:
    logits = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0], [9.0, 0, 0, 0]])
    labels = torch.tensor([0, 1, 3, -100])
    meter = ValidationMeter(["audio"])
    with pytest.raises(ValueError, match="samples must be at least 1 that has a label, got 0"):
        meter.report()
    for rows in (slice(0, 1), slice(1, 4)):
        meter.add([-logits[rows]], logits[rows], labels[rows])
    report = meter.report()
    joint = logits[:3].softmax(1)[range(3), labels[:3]]
    assert report["samples"] == 3
    assert report["accuracy"] == pytest.approx(2 / 3)
    assert report["loss"] == pytest.approx(-joint.log().mean().item())
    accuracy, probability = report["modalities"]["audio"]
    assert accuracy == pytest.approx(1 / 3 if (-logits[2]).argmax() == 3 else 0)
    assert probability == pytest.approx((-logits[:3]).softmax(1)[range(3), labels[:3]].mean().item())
    assert report["confusion"].matrix().mass.sum() == pytest.approx(3)
    with pytest.raises(ValueError, match=r"unimodal_logits must be those of \['audio'\], got 0"):
        meter.add([], logits, labels)
