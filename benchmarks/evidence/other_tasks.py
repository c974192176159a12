"""Does scheduling pay where there are no classes: pairs that are to find each other, and text.

python -m benchmarks.evidence.other_tasks [--seeds 5] [--data emoji]

Pairs: two towers learn by a symmetric contrastive loss which name belongs to which picture; 30 % of the training pairs
are wrong, their names passed on in a ring. Recall@1 of the right name among those of all test pictures. Text: a small
causal transformer learns the names letter by letter; the letters of 20 % of the training names are shuffled. Loss of
the test names, in nats a letter. Each policy has the same first weights and as many steps, over one service; what is
told of the test set is that of the epoch which a clean validation set chose. The oracle is plain shuffling over what is
right alone.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from bss_service.core.arrays import Int64
from bss_service.protocol.jobs import JobSpec
from bss_service.testing import ServiceProcess
from trainer_client import ScheduledBatchSampler, measure_pairs, measure_tokens, signals_of
from trainer_client.reference.data import Dataset, corrupt, load

POLICIES: Final = ("uniform", "evidence", "self_paced", "oracle")
WRONG_PAIRS: Final = 0.3
SHUFFLED: Final = 0.2
EPOCHS: Final = 40
BATCH: Final = 64
TEMPERATURE: Final = 0.07
LETTERS: Final = 40  # of a name, at most


@dataclass
class Judged:
    """A validation, or the test."""

    loss: float
    score: float  # recall@1, or the mean probability of a letter


class Pairs:
    """Names and pictures."""

    measuring = staticmethod(measure_pairs)
    modalities = ("image", "text")
    has_heads = True

    def __init__(self, data: Dataset, seed: int) -> None:
        harmed = corrupt(data, mispaired=WRONG_PAIRS, seed=seed)
        rows = {split: data.indices(split) for split in ("train", "validation", "test")}
        self.wrong = harmed.is_mispaired[rows["train"]]
        views = harmed.dataset.modalities
        self.parts = {
            split: (torch.from_numpy(views["image"][own]).flatten(1), torch.from_numpy(views["text"][own]))
            for split, own in rows.items()
        }
        width = self.parts["train"][0].shape[1]
        self.image = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 64))
        self.words = nn.EmbeddingBag(data.vocabulary("text"), 128, padding_idx=0, mode="mean")
        self.text = nn.Sequential(nn.ReLU(), nn.Linear(128, 64))
        self.model = nn.ModuleList([self.image, self.words, self.text])

    def step(self, indices: Int64) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what is measured of it."""
        left, right = self._embedded("train", indices)
        return _contrastive(left, right)[0], measure_pairs(left, right, temperature=TEMPERATURE)

    @torch.no_grad()
    def judge(self, split: str) -> Judged:
        """Over all of a part."""
        left, right = self._embedded(split, np.arange(len(self.parts[split][0])))
        loss, found = _contrastive(left, right)
        return Judged(float(loss), float(found.float().mean()))

    def _embedded(self, split: str, indices: Int64) -> tuple[Tensor, Tensor]:
        images, texts = (part[torch.from_numpy(indices)] for part in self.parts[split])
        return normalize(self.image(images)), normalize(self.text(self.words(texts)))


def _contrastive(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric loss of embeddings (g, d) of length 1, to train by, and which lefts find their right."""
    logits, target = left @ right.T / TEMPERATURE, torch.arange(len(left))
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2, logits.argmax(1) == target


class Text:
    """Names, letter by letter."""

    measuring = staticmethod(measure_tokens)
    modalities = ("text",)
    has_heads = False

    def __init__(self, data: Dataset, seed: int) -> None:
        rng = np.random.default_rng(seed)
        letters = sorted({letter for caption in data.captions for letter in caption})
        numbers = {letter: number + 1 for number, letter in enumerate(letters)}  # 0: before the first, and padding
        own = data.indices("train")
        self.wrong = np.zeros(len(own), np.bool_)
        self.wrong[rng.permutation(len(own))[: round(SHUFFLED * len(own))]] = True
        self.parts = {}
        for split in ("train", "validation", "test"):
            names = np.zeros((len(data.indices(split)), LETTERS), np.int64)
            for row, sample in enumerate(data.indices(split)):
                name = [numbers[letter] for letter in data.captions[sample][:LETTERS]]
                if split == "train" and self.wrong[row]:
                    rng.shuffle(name)
                names[row, : len(name)] = name
            self.parts[split] = torch.from_numpy(names)
        self.embedding = nn.Embedding(len(letters) + 1, 64)
        self.places = nn.Parameter(torch.randn(LETTERS, 64) / 8)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, len(letters) + 1)
        self.mask = nn.Transformer.generate_square_subsequent_mask(LETTERS)
        self.model = nn.ModuleList([self.embedding, self.layers, self.head, nn.ParameterList([self.places])])

    def step(self, indices: Int64) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what is measured of it."""
        logits, labels = self._predicted("train", indices)
        return cross_entropy(logits.flatten(0, 1), labels.flatten()), measure_tokens([], logits, labels)

    @torch.no_grad()
    def judge(self, split: str) -> Judged:
        """Over all of a part."""
        logits, labels = self._predicted(split, np.arange(len(self.parts[split])))
        loss = float(cross_entropy(logits.flatten(0, 1), labels.flatten()))
        return Judged(loss, float(np.exp(-loss)))

    def _predicted(self, split: str, indices: Int64) -> tuple[Tensor, Tensor]:
        names = self.parts[split][torch.from_numpy(indices)]
        seen = torch.cat([torch.zeros(len(names), 1, dtype=torch.int64), names[:, :-1]], 1)
        logits = self.head(self.layers(self.embedding(seen) + self.places, mask=self.mask, is_causal=True))
        return logits, names.masked_fill(names == 0, -100)


def run(task: Any, data: Dataset, policy: str, seed: int, url: str) -> tuple[float, float]:
    """Test loss and score at the epoch that validation chose."""
    torch.manual_seed(seed)
    made = task(data, seed)
    optimiser = torch.optim.Adam(made.model.parameters(), 2e-3)
    rows = np.flatnonzero(~made.wrong) if policy == "oracle" else np.arange(len(made.wrong))
    spec = JobSpec(
        name=f"{task.__name__.lower()}-{policy}-{seed}",
        samples=len(rows),
        modalities=list(task.modalities),
        unimodal_heads=task.has_heads,
        batch_size=BATCH,
        seed=seed,
        policy="uniform" if policy == "oracle" else policy,
        signals=signals_of(task.measuring, unimodal_heads=2 if task.has_heads else 0),
    )
    steps = EPOCHS * (len(made.wrong) // BATCH)
    per_report = len(made.wrong) // BATCH  # of all policies alike, whatever their epochs are
    best, told = None, (0.0, 0.0)
    with ScheduledBatchSampler(spec, url) as sampler:
        step = 0
        while step < steps:
            for index in sampler:
                loss, measured = made.step(rows[np.asarray(index)])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                sampler.feedback(index, measured)
                step += 1
                if step % per_report == 0:
                    judged = made.judge("validation")
                    heads = dict.fromkeys(spec.heads[:-1], (judged.score, judged.score))
                    sampler.validation(loss=judged.loss, accuracy=judged.score, modalities=heads)
                    if best is None or judged.score > best:
                        test = made.judge("test")  # told unless a later epoch is chosen; nothing is chosen by it
                        best, told = judged.score, (test.loss, test.score)
                if step == steps:
                    break
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", default="emoji")
    parser.add_argument("--task", choices=["Pairs", "Text"], action="append", help="one of the two alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load(args.data)
    with ServiceProcess() as service:
        for task in (task for task in (Pairs, Text) if args.task is None or task.__name__ in args.task):
            results = {
                policy: np.array([run(task, data, policy, seed, service.url) for seed in range(args.seeds)])
                for policy in POLICIES
            }
            print("\n".join(table(task.__name__, results)), flush=True)


def table(name: str, results: dict[str, np.ndarray]) -> Sequence[str]:
    """Means, and paired differences to plain shuffling with their standard errors."""
    lines = ["", f"| {name} | test loss | difference | score | difference |", "|---|---|---|---|---|"]
    for policy, values in results.items():
        paired = values - results["uniform"]
        cells = [
            f"{values[:, k].mean():.4f} | {paired[:, k].mean():+.4f} ± {error(paired[:, k]):.4f}" for k in range(2)
        ]
        lines.append(f"| {policy} | {' | '.join(cells)} |")
    return lines


def error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


if __name__ == "__main__":
    main()
