"""A loop over Grain's DataLoader, whose samples a scheduler chooses. Start `bss serve`, then run this file.

    pip install grain

The lines that end in `# +` are all that it adds. The model is softmax regression in NumPy, so that the file runs
without JAX and without torch; `step` is where a jitted step of yours would be. One label in ten is wrong.
"""

import argparse

import grain
import numpy as np

from trainer_client import JobSpec, ValidationReport  # +
from trainer_client.integrations.grain import ScheduledSampler  # +

CLASSES, TRAIN, BATCH, RATE = 10, 2048, 64, 0.5


class Source:
    """Training data: (x, label) by number."""

    def __init__(self, x: np.ndarray, label: np.ndarray) -> None:
        self.x, self.label = x, label

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int64]:
        return self.x[index], self.label[index]

    def __repr__(self) -> str:  # by which Grain tells whether a checkpoint is of these data
        return f"Source({len(self.x)})"


def make_data() -> tuple[Source, Source]:
    """Training and validation set."""
    rng = np.random.default_rng(0)
    label = rng.integers(CLASSES, size=TRAIN + 1000)
    x = rng.normal(size=(CLASSES, 20))[label] + 1.5 * rng.normal(size=(len(label), 20))
    wrong = rng.random(TRAIN) < 0.1
    given = label.copy()
    given[:TRAIN][wrong] = rng.integers(CLASSES, size=wrong.sum())
    return Source(x[:TRAIN], given[:TRAIN]), Source(x[TRAIN:], label[TRAIN:])


def forward(weights: np.ndarray, x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (g, c), and the losses (g,)."""
    logits = x @ weights
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability = odds / odds.sum(axis=1, keepdims=True)
    return probability, -np.log(probability[np.arange(len(label)), label])


def step(weights: np.ndarray, x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The next weights, and the losses (g,)."""
    probability, loss = forward(weights, x, label)
    return weights - RATE * x.T @ (probability - np.eye(CLASSES)[label]) / len(label), loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of the service (default: BSS_URL, else http://127.0.0.1:8765)")
    parser.add_argument("--job", default="grain", help="name of the run")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()

    train_set, val_set = make_data()
    spec = JobSpec(  # +
        name=args.job, samples=TRAIN, modalities=["x"], unimodal_heads=False, batch_size=BATCH, policy="self_paced"
    )
    sampler = ScheduledSampler(spec, args.url)  # +
    loader = grain.DataLoader(
        data_source=train_set,
        sampler=sampler,  # +
        operations=[grain.transforms.Batch(sampler.share)],
    )
    weights, epoch = np.zeros((20, CLASSES)), TRAIN // BATCH
    for number, (x, label) in zip(range(args.epochs * epoch), loader, strict=False):
        weights, loss = step(weights, x, label)
        if (number + 1) % epoch == 0:  # before the last feedback of the epoch, so that the next is drawn with it
            probability, val_loss = forward(weights, val_set.x, val_set.label)
            accuracy = float((probability.argmax(axis=1) == val_set.label).mean())
            report = ValidationReport(
                step=number + 1, loss=float(val_loss.mean()), accuracy=accuracy, modalities={}
            )  # +
            sampler.validation(report)  # +
            print(f"epoch {number // epoch}: validation accuracy {accuracy:.3f}")
        sampler.feedback(number, {"loss": loss})  # +
    sampler.close()  # +


if __name__ == "__main__":
    main()
