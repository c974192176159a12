"""How each public data set is trained on where nothing else is said, and what of it is known from the paper of BSS.

`PAPER` is what the code released with the paper says of its six sets, in its scripts of BSS-L (njustkmg/IJCAI25-BSS,
495b94e, train-SPL.py): weights of the loss, logits that predict in its test, optimiser, rates, batch size, epochs.
Where it adds the losses of M + 1 heads up, λ = 0.5 is half of that: with SGD, twice the rate and half the weight decay
are the same training, and with Adam half the weight decay. Of the other sets nothing is known from it, and they are
trained as anything else is. Encoders are those that papers on these sets use; sizes and numbers of frames are the
released code's, but for NVGesture, whose are larger. It augments pictures, and nothing is augmented here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer_client.reference.datasets import read_set
from trainer_client.reference.datasets.media import Bytes, Decoding, LogMel, Pictures, Tokens
from trainer_client.reference.datasets.samples import Media
from trainer_client.reference.encoders import Choice, transformers
from trainer_client.reference.evaluation import Logits
from trainer_client.reference.training import UNIMODAL_WEIGHT, Optimiser

LENGTH: Final = 128  # tokens of a text


@dataclass(frozen=True, slots=True)
class Usual:
    """What a run is trained with where nothing else is said; as `TrainingConfig` has it."""

    epochs: int = 25
    batch_size: int = 64
    optimiser: Optimiser = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    decay_epochs: int | None = None
    unimodal_weight: float = UNIMODAL_WEIGHT  # λ of ℓ = (1 − λ)·CE_joint + λ·Σ_j CE_j
    logits: Logits = "joint"

    @classmethod
    def summed(cls, epochs: int, batch_size: int, sgd: float | None = None, adam: float | None = None) -> "Usual":
        """As the released code trains where it adds the losses up: by SGD or by Adam, of that rate."""
        optimiser: Optimiser = "adam" if sgd is None else "sgd"
        rate = adam or 2 * (sgd or 0)
        return cls(epochs, batch_size, optimiser, rate, weight_decay=5e-5, decay_epochs=70, logits="sum")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Encoders by modality, what media become, and what is usual."""

    encoders: Mapping[str, str]
    usual: Usual = Usual()
    frames: int = 3  # of a film
    side: int = 224  # pixels, of pictures

    def chosen(self, modalities: Iterable[str], others: Mapping[str, str]) -> dict[str, str]:
        """The encoders of a copy of the set, which need not have all modalities; those of `others` come first."""
        return {**{name: self.encoders[name] for name in modalities if name in self.encoders}, **others}


_SEEN_AND_HEARD: Final = {"audio": "resnet18", "video": "resnet18"}
_SEEN_AND_READ: Final = {"image": "resnet50:microsoft/resnet-50", "text": "bert:google-bert/bert-base-uncased"}

PAPER: Final[Mapping[str, Usual]] = {
    "crema-d": Usual(120, 32, "sgd", 0.01, 1e-4, decay_epochs=70, unimodal_weight=0.9, logits="unimodal"),
    "kinetics-sounds": Usual.summed(100, 32, sgd=0.1),
    "vggsound": Usual.summed(100, 16, sgd=0.01),
    "twitter2015": Usual.summed(100, 32, sgd=0.001),
    "mmsd": Usual.summed(100, 32, adam=1e-5),
    "nvgesture": Usual.summed(120, 2, sgd=0.01),
}
RECIPES: Final[Mapping[str, Recipe]] = {
    "crema-d": Recipe(_SEEN_AND_HEARD, PAPER["crema-d"], frames=1),
    "kinetics-sounds": Recipe(_SEEN_AND_HEARD, PAPER["kinetics-sounds"]),
    "vggsound": Recipe(_SEEN_AND_HEARD, PAPER["vggsound"], frames=1, side=384),
    "ave": Recipe(_SEEN_AND_HEARD),
    "twitter2015": Recipe(_SEEN_AND_READ, PAPER["twitter2015"]),
    "mmsd": Recipe(_SEEN_AND_READ, PAPER["mmsd"]),
    "mmsd2": Recipe(_SEEN_AND_READ),
    "food-101": Recipe(_SEEN_AND_READ),
    "mvsa": Recipe(_SEEN_AND_READ),
    "nvgesture": Recipe(
        {"color": "resnet3d18", "depth": "resnet3d18", "flow": "resnet3d18"}, PAPER["nvgesture"], frames=16, side=112
    ),
    "ucf-101": Recipe({"video": "resnet18", "flow": "resnet18"}),
    "cmu-mosei": Recipe({"text": "gru", "audio": "gru", "vision": "gru"}),
    "iemocap": Recipe({**_SEEN_AND_HEARD, "text": "bert:google-bert/bert-base-uncased"}),
}


def read_media(
    name: str, root: Path, encoders: Mapping[str, str], *, split: str = "official", leave_out: bool = False
) -> tuple[Media, dict[str, str]]:
    """The set `name` in a folder, ready to be trained on, and the encoders of its modalities.

    encoders: those to be used in place of the recipe's, by modality. Texts become ids by the tokenizer that lies with
    their encoder's weights, else bytes. split: one that the set has. leave_out: whether files that are missing are done
    without. Raises what `read_set` raises, and ValueError for a tokenizer that can't be read.
    """
    recipe = RECIPES[name]
    index = read_set(root, name, split=split, leave_out=leave_out)
    chosen = recipe.chosen(index.modalities, encoders)
    text = tokens(Choice.parse(chosen.get("text", "small")).weights) if "text" in index.modalities else None
    sound, pictures = LogMel(seconds=index.clip_seconds), Pictures(recipe.frames, recipe.side)
    return Media(index, Decoding(sound, pictures, text)), chosen


def tokens(weights: str | None) -> Tokens:
    """By the tokenizer of a folder or a name on the hub of transformers; by bytes where there is none."""
    if weights is None:
        return Tokens(Bytes(), LENGTH)
    try:
        tokenizer = transformers().AutoTokenizer.from_pretrained(weights, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{weights} has no tokenizer to be read: {' '.join(str(error).split())}") from None
    return Tokens(tokenizer, min(LENGTH, tokenizer.model_max_length))
