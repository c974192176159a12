"""Hugging Face's Trainer, whose training samples a scheduler chooses. Start `bss serve`, then run this file.

The lines that end in `# +` are all that it adds. The model is a small transformer over made-up sentences, a fifth of
whose labels are drawn at random. Run the file again with more `--epochs`, and it goes on from its checkpoint.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import EvalPrediction, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from trainer_client.integrations.transformers import BalanceScheduling  # + in place of Trainer

CLASSES, WORDS, LENGTH, TRAIN = 6, 100, 12, 2048


class Sentences(Dataset[dict[str, Tensor]]):
    """A sentence of a class has some of that class's words."""

    def __init__(self, size: int, wrong: float) -> None:
        self.labels = torch.randint(CLASSES, (size,))
        own = torch.randint(10, (size, LENGTH)) + 10 * self.labels[:, None]
        is_own = torch.rand(size, LENGTH) < 0.3
        self.words = torch.where(is_own, own, torch.randint(WORDS, (size, LENGTH)))
        drawn = torch.rand(size) < wrong
        self.labels = torch.where(drawn, torch.randint(CLASSES, (size,)), self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "labels": self.labels[index]}


class Classifier(nn.Module):
    """A layer of attention, and the mean over places."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.layer(self.embedding(input_ids)).mean(dim=1))
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def accuracy(judged: EvalPrediction) -> dict[str, float]:
    """Of the validation set; the scheduler is told of it."""
    return {"accuracy": float((judged.predictions.argmax(axis=1) == judged.label_ids).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of the service (default: BSS_URL, else http://127.0.0.1:8765)")
    parser.add_argument("--job", default="huggingface", help="name of the run; its checkpoints are in runs/NAME")
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()

    torch.manual_seed(0)
    train_set, val_set = Sentences(TRAIN, wrong=0.2), Sentences(500, wrong=0.0)
    folder = Path("runs", args.job)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        eval_strategy="epoch",
        save_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = BalanceScheduling(  # +
        Classifier(),
        arguments,
        train_dataset=train_set,
        eval_dataset=val_set,
        compute_metrics=accuracy,
        scheduling={"name": args.job, "modalities": ["text"], "policy": "self_paced", "url": args.url},  # +
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.exists() else None)
    for entry in trainer.state.log_history:
        if "eval_accuracy" in entry:
            print(f"epoch {entry['epoch']:.0f}: validation accuracy {entry['eval_accuracy']:.3f}")


if __name__ == "__main__":
    main()
