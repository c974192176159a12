"""Encoders by name: the shapes that they take and give, where their weights come from, and what they refuse."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.support.encoders import tiny_bert, tiny_clip, tiny_resnet
from trainer_client.reference import encoders
from trainer_client.reference.encoders import Choice, make_encoder

FILMS, PICTURES, SPECTROGRAMS = torch.ones(2, 3, 4, 16, 16), torch.rand(2, 3, 16, 16), torch.rand(2, 8, 21)
ROWS, VECTORS, IDS = torch.rand(2, 5, 7), torch.rand(2, 7), torch.tensor([[2, 4, 5, 3, 0], [2, 6, 7, 4, 3]])


def made(choice: str, example: Tensor) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    encoder, width = make_encoder(Choice.parse(choice), example, vocabulary=10)
    return encoder.eval(), width


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = tmp_path_factory.mktemp("weights")
    for name, make in (("bert", tiny_bert), ("clip", tiny_clip), ("resnet", tiny_resnet)):
        make(whole / name)
    return whole


@pytest.mark.parametrize(
    ("choice", "example", "width"),
    [
        ("small", FILMS, 64),
        ("resnet18", FILMS[:, :, :2], 512),
        ("resnet18", torch.ones(2, 2, 2, 16, 16), 512),  # flow
        ("resnet18", SPECTROGRAMS, 512),
        ("gru", ROWS, 128),
        ("gru", VECTORS, 128),
        ("bert:{}/bert", IDS, 16),
        ("clip:{}/clip", IDS, 16),
        ("clip:{}/clip", PICTURES, 8),
        ("clip:{}/clip", FILMS, 8),
        ("resnet18:{}/resnet", PICTURES, 8),
        ("resnet18:{}/resnet", PICTURES[:, :1], 8),  # grey, given to all channels
    ],
)
def test_what_it_takes_and_gives(choice: str, example: Tensor, width: int, folder: Path) -> None:
    encoder, told = made(choice.format(folder), example)
    assert told == width
    assert encoder(example).shape == (len(example), width)


def test_the_networks_are_those_of_the_papers() -> None:
    """As many parameters as torchvision documents, without the classifier's: (width + 1)·classes."""
    for name, example, number in (
        ("resnet18", PICTURES, 11_689_512 - 513 * 1000),
        ("resnet50", PICTURES, 25_557_032 - 2049 * 1000),
        ("resnet3d18", FILMS, 33_371_472 - 513 * 400),
    ):
        with torch.device("meta"):
            encoder, _ = make_encoder(Choice(name), example, 0)
        assert sum(weights.numel() for weights in encoder.parameters()) == number


def test_a_film_is_the_mean_of_its_frames_and_order_matters_to_the_3_d_network_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoders, "FILM_STAGES", (4, 4, 4, 4))
    films = torch.rand(2, 3, 4, 32, 32)
    by_frame, _ = made("small", films)
    frames = torch.stack([by_frame(films[:, :, k]) for k in range(4)]).mean(0)
    torch.testing.assert_close(by_frame(films), frames)
    torch.testing.assert_close(by_frame(films.flip(2)), frames)
    whole, width = made("resnet3d18", films)
    assert whole(films).shape == (2, width)
    assert not torch.allclose(whole(films), whole(films.flip(2)))


def test_padding_is_not_read(folder: Path) -> None:
    encoder, _ = made(f"bert:{folder}/bert", IDS)
    torch.testing.assert_close(encoder(IDS)[:1], encoder(IDS[:1, :4]))
    changed = IDS.clone()
    changed[0, 1] = 7
    assert not torch.allclose(encoder(IDS)[0], encoder(changed)[0])


def test_weights_are_those_of_the_folder(folder: Path) -> None:
    encoder, _ = made(f"bert:{folder}/bert", IDS)
    own = dict(encoder.named_parameters())["network.embeddings.word_embeddings.weight"]
    assert own.equal(load_file(folder / "bert" / "model.safetensors")["embeddings.word_embeddings.weight"])


@pytest.mark.parametrize(
    ("choice", "example", "complaint"),
    [
        ("resnet34", PICTURES, "encoder must be one of small, resnet18, .*, got 'resnet34'"),
        ("bert:", IDS, "must name weights after its colon, got 'bert:'"),
        ("gru:here", ROWS, "encoder gru has no weights to be had, got 'here'"),
        ("bert", IDS, "encoder bert needs weights: bert:FOLDER"),
        ("bert:{}/bert", VECTORS, r"encoder bert takes token ids \(L,\), got float32 of shape \(7,\)"),
        ("bert:{}/clip", IDS, "encoder bert needs weights of a bert, got clip"),
        ("clip:{}/clip", torch.ones(2, 3, 8, 8), r"takes pictures of 16 × 16, got float32 of shape \(3, 8, 8\)"),
        ("clip:{}/clip", torch.ones(2, 20, dtype=torch.int64), "takes at most 12 tokens, got 20"),
        ("resnet18", IDS, r"encoder resnet18 takes pictures .*, got int64 of shape \(5,\)"),
        ("resnet18:{}/resnet", torch.ones(2, 2, 8, 8), "takes 3 channels, got 2"),
        ("resnet3d18", PICTURES, r"takes films \(c, t, h, w\), got float32 of shape \(3, 16, 16\)"),
    ],
)
def test_what_does_not_fit_is_refused(choice: str, example: Tensor, complaint: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        made(choice.format(folder), example)


def test_a_folder_without_safetensors_is_refused_and_no_pickle_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "bert" / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nabort\n)R.")
    with pytest.raises(ValueError, match="has no weights to be read"):
        made(f"bert:{tmp_path}", IDS)


def test_without_transformers_it_says_what_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'bss-scheduler\[encoders\]'"):
        made("resnet18", PICTURES)
