"""Samples as a map-style data set of PyTorch: nothing is decoded before it is asked for."""

from torch import Tensor
from torch.utils.data import Dataset

from trainer_client.reference.data.dataset import SPLITS

from .folder import Index
from .media import Decoding, LogMel


class MediaDataset(Dataset[tuple[dict[str, Tensor], int]]):
    """The samples of one split, numbered from 0 in the order of the annotations: ({modality: tensor}, label).

    Shapes are those of `Decoding`, one for all samples of a modality, features of others excepted, so that
    the usual collation makes batches. A file that can't be read raises BrokenFileError with its name; `verify` finds
    all.
    """

    def __init__(self, index: Index, split: str, decoding: Decoding | None = None) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        self.samples = [sample for sample in index.samples if sample.split == split]
        self.decoding = decoding or Decoding(audio=LogMel(seconds=index.clip_seconds))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[dict[str, Tensor], int]:
        sample = self.samples[number]
        return {modality: self.decoding(medium) for modality, medium in sample.media.items()}, sample.label
