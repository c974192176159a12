"""Models of transformers with random weights, as small as they can be, in folders as its hub has them."""

from pathlib import Path

import torch

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "see", "rome", "and", "paris")


def tiny_bert(folder: Path) -> Path:
    """A BERT of 16 units, and a tokenizer of a few words."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    form = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=128, **form)).save_pretrained(folder)
    _tokenizer(folder)
    return folder


def tiny_clip(folder: Path) -> Path:
    """A CLIP of 16 and of 8 units, for pictures of 16 × 16, and a tokenizer of a few words."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    form = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {"vocab_size": len(WORDS), "hidden_size": 16, "max_position_embeddings": 12, "eos_token_id": 3, **form}
    vision = {"hidden_size": 8, "image_size": 16, "patch_size": 8, **form}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    _tokenizer(folder)
    return folder


def tiny_resnet(folder: Path, channels: int = 3) -> Path:
    """A ResNet of 8 units."""
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    form = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    ResNetModel(ResNetConfig(num_channels=channels, **form)).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, "[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", model_max_length=12
    ).save_pretrained(folder)
