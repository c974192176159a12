"""Encoders by name: what turns the tensors of one modality into embeddings.

`small` follows from the data and trains in seconds. The others are those of the field: ResNets, BERT and CLIP by
`transformers`, random or with the weights of a folder or a name on its hub; a 3-D ResNet for films, and a recurrent
network for rows of features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

WIDTH: Final = 64  # of the small encoders' embeddings
RESNETS: Final[Mapping[str, Mapping[str, Any]]] = {  # He et al., CVPR 2016
    "resnet18": {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
    "resnet50": {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048]},
}
STEM: Final = 64  # channels of a ResNet's first layer
FILM_STAGES: Final = (64, 128, 256, 512)  # channels of the 3-D ResNet-18: Tran et al., CVPR 2018
RECURRENT: Final = 128  # units of the recurrent network


@dataclass(frozen=True, slots=True)
class Choice:
    """An encoder by its name, and where its weights come from; None: drawn at random."""

    name: str
    weights: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """Of `resnet18`, or `bert:FOLDER` or `bert:NAME`. Raises ValueError for an encoder that there is not."""
        name, colon, weights = text.partition(":")
        if name not in ENCODERS:
            raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, got {name!r}")
        if colon and not weights:
            raise ValueError(f"encoder must name weights after its colon, got {text!r}")
        if weights and name in ("small", "resnet3d18", "gru"):
            raise ValueError(f"encoder {name} has no weights to be had, got {weights!r}")
        return cls(name, weights or None)


def make_encoder(choice: Choice, example: Tensor, vocabulary: int) -> tuple[nn.Module, int]:
    """An encoder for tensors like the example (g, …) -> embeddings (g, d), and d.

    vocabulary: rows of an embedding of token ids. Raises ValueError, naming the shape, for tensors that it can't take.
    """
    return ENCODERS[choice.name](choice, example, vocabulary)


def _small(choice: Choice, example: Tensor, vocabulary: int) -> tuple[nn.Module, int]:
    if not example.is_floating_point():
        return _text_encoder(vocabulary), WIDTH
    kinds = {2: _vector_encoder, 3: _signal_encoder, 4: _image_encoder}
    if example.ndim == 5:
        return Frames(_image_encoder(example.shape[1])), WIDTH
    return kinds[example.ndim](example.shape[1]), WIDTH


def _text_encoder(vocabulary: int) -> nn.Module:
    # Straight after the bag a ReLU costs about 2 points of accuracy on short names, the sum of embeddings about 5.
    bag = nn.EmbeddingBag(vocabulary, WIDTH, mode="mean", padding_idx=0)
    return nn.Sequential(bag, nn.Linear(WIDTH, WIDTH), nn.ReLU())


def _vector_encoder(size: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH), nn.ReLU())


def _signal_encoder(channels: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width, kernel in ((16, 7), (32, 5), (WIDTH, 5)):
        layers += [nn.Conv1d(channels, width, kernel, stride=2, padding=kernel // 2), nn.BatchNorm1d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten())


def _image_encoder(channels: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width in (16, 32, WIDTH):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Frames(nn.Module):
    """A network of pictures on each frame of films (g, c, t, h, w), and the mean over frames; or on pictures alone."""

    def __init__(self, pictures: nn.Module) -> None:
        super().__init__()
        self.pictures = pictures

    def forward(self, x: Tensor) -> Tensor:
        """(g, c, t, h, w), (g, c, h, w), or (g, h, w) with one channel -> (g, d)."""
        if x.ndim < 5:
            embedded: Tensor = self.pictures(x[:, None] if x.ndim == 3 else x)
            return embedded
        embedded = self.pictures(x.transpose(1, 2).flatten(0, 1))
        return embedded.view(len(x), x.shape[2], -1).mean(1)


class _Pooled(nn.Module):
    """The pooled output of a network of pictures of transformers, (g, d)."""

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, x: Tensor) -> Tensor:
        """x: (g, 1 or channels, h, w); grey pictures are given to all channels."""
        pooled: Tensor = self.network(x.expand(-1, self.channels, -1, -1)).pooler_output
        return pooled.flatten(1)


def _resnet(choice: Choice, example: Tensor, vocabulary: int) -> tuple[nn.Module, int]:
    channels = _channels(choice, example)
    if choice.weights is None:
        form = {"num_channels": channels, "embedding_size": STEM, **RESNETS[choice.name]}
        network = transformers().AutoModel.from_config(transformers().ResNetConfig(**form))
    else:
        network = _pretrained(choice, "resnet")
        _check_channels(choice, channels, network.config.num_channels)
    return Frames(_Pooled(network, network.config.num_channels)), network.config.hidden_sizes[-1]


def _clip(choice: Choice, example: Tensor, vocabulary: int) -> tuple[nn.Module, int]:
    whole = _pretrained(choice, "clip")
    if not example.is_floating_point():
        _check_length(choice, example, whole.config.text_config.max_position_embeddings)
        return _Text(whole.text_model, None), whole.config.text_config.hidden_size
    channels, form = _channels(choice, example), whole.config.vision_config
    _check_channels(choice, channels, form.num_channels)
    if example.shape[-2:] != (form.image_size, form.image_size):
        raise ValueError(
            f"{choice.weights} takes pictures of {form.image_size} × {form.image_size}, got {_told(example)}"
        )
    return Frames(_Pooled(whole.vision_model, form.num_channels)), form.hidden_size


def _bert(choice: Choice, example: Tensor, vocabulary: int) -> tuple[nn.Module, int]:
    if example.is_floating_point():
        raise ValueError(f"encoder bert takes token ids (L,), got {_told(example)}")
    network = _pretrained(choice, "bert")
    _check_length(choice, example, network.config.max_position_embeddings)
    network.pooler = None  # trained for another task, and not used here
    return _Text(network, network.config.pad_token_id), network.config.hidden_size


class _Text(nn.Module):
    """A network of token ids (g, L) -> (g, d): its first token's output, or what it pools itself."""

    def __init__(self, network: nn.Module, padding: int | None) -> None:
        """padding: the id that is not looked at; None: of a network whose tokens see what stands before them alone."""
        super().__init__()
        self.network, self.padding = network, padding

    def forward(self, ids: Tensor) -> Tensor:
        if self.padding is None:
            pooled: Tensor = self.network(input_ids=ids).pooler_output
            return pooled
        first: Tensor = self.network(input_ids=ids, attention_mask=ids != self.padding).last_hidden_state[:, 0]
        return first


def transformers() -> Any:
    """The package, which takes seconds to import. Raises ImportError that names the extra it comes with."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"this encoder needs pip install 'bss-scheduler[encoders]': {error}") from None
    return transformers


def _pretrained(choice: Choice, kind: str) -> Any:
    """A model of transformers with its weights, of safetensors alone; nothing that comes with them is run."""
    if choice.weights is None:
        raise ValueError(f"encoder {choice.name} needs weights: {choice.name}:FOLDER, or a name on the hub")
    try:
        config = transformers().AutoConfig.from_pretrained(choice.weights, trust_remote_code=False)
        if config.model_type != kind:
            raise ValueError(f"encoder {choice.name} needs weights of a {kind}, got {config.model_type}")
        return transformers().AutoModel.from_pretrained(
            choice.weights, config=config, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except OSError as error:
        raise ValueError(f"{choice.weights} has no weights to be read: {' '.join(str(error).split())}") from None


def _channels(choice: Choice, example: Tensor) -> int:
    if not example.is_floating_point() or example.ndim not in (3, 4, 5):
        raise ValueError(
            f"encoder {choice.name} takes pictures (c, h, w), films (c, t, h, w) or spectrograms (h, w), "
            f"got {_told(example)}"
        )
    return 1 if example.ndim == 3 else example.shape[1]


def _check_channels(choice: Choice, channels: int, taken: int) -> None:
    if channels not in (1, taken):
        raise ValueError(f"{choice.weights} takes {taken} channels, got {channels}")


def _check_length(choice: Choice, example: Tensor, most: int) -> None:
    if example.shape[1] > most:
        raise ValueError(f"{choice.weights} takes at most {most} tokens, got {example.shape[1]}")


class _Residual(nn.Module):
    """Two 3-D convolutions, and what came in."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolved(channels, width, 3, stride), nn.ReLU(inplace=True), *_convolved(width, width, 3, 1)
        )
        same = stride == 1 and channels == width
        self.past = nn.Identity() if same else nn.Sequential(*_convolved(channels, width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.past(x))


def _convolved(channels: int, width: int, size: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv3d(channels, width, size, stride, size // 2, bias=False), nn.BatchNorm3d(width)


def _films(choice: Choice, example: Tensor, vocabulary: int) -> tuple[nn.Module, int]:
    if example.ndim != 5:
        raise ValueError(f"encoder {choice.name} takes films (c, t, h, w), got {_told(example)}")
    channels = FILM_STAGES[0]
    stem = nn.Conv3d(example.shape[1], channels, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm3d(channels), nn.ReLU(inplace=True)]
    for stage, width in enumerate(FILM_STAGES):
        layers += [_Residual(channels, width, 2 if stage else 1), _Residual(width, width, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten()), channels


class _Recurrent(nn.Module):
    """A gated recurrent network (Cho et al., EMNLP 2014) over rows of features, and the mean of its outputs."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.network = nn.GRU(size, RECURRENT, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """x: (g, t, d), or (g, d) as one row."""
        outputs, _ = self.network(x[:, None] if x.ndim == 2 else x)
        mean: Tensor = outputs.mean(1)
        return mean


def _gru(choice: Choice, example: Tensor, vocabulary: int) -> tuple[nn.Module, int]:
    if not example.is_floating_point() or example.ndim not in (2, 3):
        raise ValueError(f"encoder gru takes rows of features (t, d), got {_told(example)}")
    return _Recurrent(example.shape[-1]), RECURRENT


def _told(example: Tensor) -> str:
    return f"{str(example.dtype).removeprefix('torch.')} of shape {tuple(example.shape[1:])}"


ENCODERS: Final[Mapping[str, Callable[[Choice, Tensor, int], tuple[nn.Module, int]]]] = {
    "small": _small,
    "resnet18": _resnet,
    "resnet50": _resnet,
    "resnet3d18": _films,
    "gru": _gru,
    "bert": _bert,
    "clip": _clip,
}
