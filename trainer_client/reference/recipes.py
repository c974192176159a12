"""How each public data set is trained on where nothing else is said, and what of it is known from the paper of BSS.

Known of the paper are the weights of its loss on CREMA-D (0.1 of the joint head, 0.9 of each unimodal one) and on
Kinetics-Sounds (1 of each, whose half λ = 0.5 is), and that its released code sums the losses elsewhere too, which
λ = 0.5 is but for a factor. With which logits it tests is known of no set: here those of the joint head predict.
Encoders are those that papers on these sets use; sizes, rates and numbers of frames are choices of this project.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer_client.reference.datasets import read_set
from trainer_client.reference.datasets.media import Bytes, Decoding, LogMel, Pictures, Tokens
from trainer_client.reference.datasets.samples import Media
from trainer_client.reference.encoders import Choice, transformers

LENGTH: Final = 128  # tokens of a text


@dataclass(frozen=True, slots=True)
class Recipe:
    """Encoders by modality, the loss, and what media become."""

    encoders: Mapping[str, str]
    unimodal_weight: float = 0.5  # λ of ℓ = (1 − λ)·CE_joint + λ·Σ_j CE_j
    frames: int = 3  # of a film
    side: int = 224  # pixels, of pictures

    def chosen(self, modalities: Iterable[str], others: Mapping[str, str]) -> dict[str, str]:
        """The encoders of a copy of the set, which need not have all modalities; those of `others` come first."""
        return {**{name: self.encoders[name] for name in modalities if name in self.encoders}, **others}


_SEEN_AND_HEARD: Final = {"audio": "resnet18", "video": "resnet18"}
_SEEN_AND_READ: Final = {"image": "resnet50", "text": "bert:google-bert/bert-base-uncased"}

RECIPES: Final[Mapping[str, Recipe]] = {
    "crema-d": Recipe(_SEEN_AND_HEARD, unimodal_weight=0.9),
    "kinetics-sounds": Recipe(_SEEN_AND_HEARD),
    "vggsound": Recipe(_SEEN_AND_HEARD),
    "ave": Recipe(_SEEN_AND_HEARD),
    "twitter2015": Recipe(_SEEN_AND_READ),
    "mmsd": Recipe(_SEEN_AND_READ),
    "mmsd2": Recipe(_SEEN_AND_READ),
    "food-101": Recipe(_SEEN_AND_READ),
    "mvsa": Recipe(_SEEN_AND_READ),
    "nvgesture": Recipe({"color": "resnet3d18", "depth": "resnet3d18", "flow": "resnet3d18"}, frames=16, side=112),
    "ucf-101": Recipe({"video": "resnet18", "flow": "resnet18"}),
    "cmu-mosei": Recipe({"text": "gru", "audio": "gru", "vision": "gru"}),
    "iemocap": Recipe({**_SEEN_AND_HEARD, "text": "bert:google-bert/bert-base-uncased"}),
}


def read_media(
    name: str, root: Path, encoders: Mapping[str, str], *, leave_out: bool = False
) -> tuple[Media, dict[str, str]]:
    """The set `name` in a folder, ready to be trained on, and the encoders of its modalities.

    encoders: those to be used in place of the recipe's, by modality. Texts become ids by the tokenizer that lies with
    their encoder's weights, else bytes. leave_out: whether files that are missing are done without. Raises what
    `read_set` raises, and ValueError for a tokenizer that can't be read.
    """
    recipe = RECIPES[name]
    index = read_set(root, name, leave_out=leave_out)
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
