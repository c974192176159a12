"""What a run on a public set costs: a step, decoding a sample, and from both a whole run.

python -m benchmarks.speed.public_sets     (half a minute on a core; a GPU is used where there is one)

Recordings and pictures are made here, in the sizes in which the sets are found; networks, decoding, batch sizes and
epochs are those of the reference trainer on these sets. Nothing is learnt.
"""

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import soundfile
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from trainer_client.logits.losses import multimodal_loss
from trainer_client.reference.datasets import SETS, Index, Report, Sample
from trainer_client.reference.datasets.folder import Audio, Frames
from trainer_client.reference.datasets.media import Decoding, LogMel, Pictures
from trainer_client.reference.datasets.samples import DECODERS, Media
from trainer_client.reference.model import LateFusion, build_model
from trainer_client.reference.recipes import RECIPES
from trainer_client.reference.training import Samples

MADE: Final = {  # pixels of a frame, classes
    "crema-d": ((480, 360), 6),
    "kinetics-sounds": ((340, 256), 31),
    "vggsound": ((340, 256), 309),
}
LOADERS: Final = 8  # processes that decode training samples, in the estimate
TERA: Final = 1e12


def main() -> int:
    """Measure each set; 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.public_sets", description=__doc__.splitlines()[0])
    parser.add_argument("--tflops", type=float, default=20.0, help="that a GPU is taken to keep up, where none is here")
    given = parser.parse_args()
    torch.set_num_threads(1)  # as a process that decodes has
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"on {device.type}; {LOADERS} processes decode, in the estimate")
    for name, (size, classes) in MADE.items():
        with TemporaryDirectory() as folder:
            measure(name, made(name, Path(folder), size, classes), device, given.tflops)
    return 0


def measure(name: str, data: Media, device: torch.device, tflops: float) -> None:
    """Print what a set costs."""
    usual, known = RECIPES[name].usual, SETS[name].published[0]
    model = build_model(data, 0, encoders=RECIPES[name].encoders).to(device)
    inputs = data.inputs(data.indices("train")[:1])
    few, batch = ([x.expand(size, *x.shape[1:]).to(device) for x in inputs] for size in (2, usual.batch_size))
    with FlopCounterMode(display=False) as counted:
        step(model, few)
    operations, decoding = counted.get_total_flops() / 2, decoded_in(data)
    of_one = timed(model, batch) / usual.batch_size if device.type == "cuda" else operations / (tflops * TERA)
    trained = known.train + known.validation  # what is held out is counted as if it were trained on
    looked_at = trained / 10 + known.test  # after each epoch, forwards alone
    gpu = usual.epochs * (trained + looked_at / 3) * of_one
    decoded = usual.epochs * (trained / LOADERS + looked_at / DECODERS) * decoding
    rate = "measured" if device.type == "cuda" else f"at {tflops:g} TFLOP/s"
    print(
        f"{name}: {operations / 1e9:.1f} GFLOP to train a sample, {1000 * decoding:.0f} ms of a core to decode one.\n"
        f"  {usual.epochs} epochs of {trained:,}: {gpu / 3600:.1f} h on a GPU ({rate}), "
        f"{decoded / 3600:.1f} h of decoding beside it"
    )


def made(name: str, root: Path, size: tuple[int, int], classes: int) -> Media:
    """A set of three samples, one a split, in files as the real one has them."""
    rng = np.random.default_rng(0)
    source, recipe = SETS[name], RECIPES[name]
    media: dict[str, Audio | Frames] = {"audio": Audio(root / "sound.wav"), "video": Frames(root)}
    soundfile.write(root / "sound.wav", rng.normal(scale=0.1, size=round(16_000 * source.clip_seconds)), 16_000)
    for number in range(3):
        coarse = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(root / f"frame_{number:05d}.jpg", quality=90)
    samples = tuple(Sample(split, split, split, 0, media) for split in ("train", "validation", "test"))
    index = Index(name, root, "made", tuple(map(str, range(classes))), samples, Report(), source.clip_seconds)
    return Media(index, Decoding(LogMel(source.clip_seconds), Pictures(recipe.frames, recipe.side)))


def step(model: LateFusion, batch: list[torch.Tensor]) -> None:
    """Forward and backward."""
    labels = torch.zeros(len(batch[0]), dtype=torch.int64, device=batch[0].device)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=batch[0].is_cuda):
        unimodal, joint, _ = model(batch)
    multimodal_loss(unimodal, joint, labels).mean().backward()  # type: ignore[no-untyped-call]


def timed(model: LateFusion, batch: list[torch.Tensor], repeats: int = 5) -> float:
    """Seconds of a step on a GPU, the median, after a first one that isn't counted."""
    seconds = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        step(model, batch)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:]))


def decoded_in(data: Media, repeats: int = 20) -> float:
    """Processor seconds of decoding a training sample, the median."""
    samples, seconds = Samples(data), []
    for _ in range(repeats):
        began = time.process_time()
        samples[0]
        seconds.append(time.process_time() - began)
    return float(np.median(seconds))


if __name__ == "__main__":
    sys.exit(main())
