"""A Lightning module whose training samples a scheduler chooses. Start `bss serve`, then run this file.

The lines that end in `# +` are all that it adds. Run it again with more `--epochs`, and it goes on from its checkpoint.
"""

import argparse
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from trainer_client import measure  # +
from trainer_client.integrations.lightning import BalanceScheduling  # +
from trainer_client.integrations.schedule import schedule  # +

CLASSES, TRAIN = 10, 2048


class Net(lightning.LightningModule):
    """Late fusion: two encoders, a head on each, and one on both."""

    def __init__(self) -> None:
        super().__init__()
        self.audio = nn.Sequential(nn.Linear(20, 64), nn.ReLU())
        self.video = nn.Sequential(nn.Linear(30, 64), nn.ReLU())
        self.audio_head, self.video_head = nn.Linear(64, CLASSES), nn.Linear(64, CLASSES)
        self.joint_head = nn.Linear(128, CLASSES)

    def forward(self, audio: Tensor, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, v = self.audio(audio), self.video(video)
        return self.audio_head(a), self.video_head(v), self.joint_head(torch.cat([a, v], dim=1))

    def training_step(self, batch: tuple[Tensor, tuple[Tensor, Tensor, Tensor]], _: int) -> dict[str, object]:
        _index, (audio, video, label) = batch  # +
        *unimodal, joint = self(audio, video)
        loss = 0.5 * sum(cross_entropy(logits, label) for logits in [*unimodal, joint])
        return {"loss": loss, "measured": measure(unimodal, joint, label)}  # +

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> dict[str, object]:
        audio, video, label = batch
        *unimodal, joint = self(audio, video)
        self.log("accuracy", (joint.argmax(dim=1) == label).float().mean())
        return {"judged": (unimodal, joint, label)}  # +

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            print(f"epoch {self.current_epoch}: validation accuracy {self.trainer.callback_metrics['accuracy']:.3f}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def make_data() -> tuple[TensorDataset, TensorDataset]:
    """Training and validation set. The sound tells the classes apart better than the video does."""
    label = torch.randint(CLASSES, (TRAIN + 1000,))
    audio = torch.randn(CLASSES, 20)[label] + 2 * torch.randn(len(label), 20)
    video = torch.randn(CLASSES, 30)[label] + 4 * torch.randn(len(label), 30)
    data = audio, video, label
    return TensorDataset(*(t[:TRAIN] for t in data)), TensorDataset(*(t[TRAIN:] for t in data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of the service (default: BSS_URL, else http://127.0.0.1:8765)")
    parser.add_argument("--job", default="lightning", help="name of the run; its checkpoint is runs/NAME/last.ckpt")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()

    lightning.seed_everything(0, verbose=False)
    train_set, val_set = make_data()
    loader = DataLoader(train_set, batch_size=64, shuffle=True)
    loader, sampler = schedule(  # +
        loader, name=args.job, modalities=["audio", "video"], policy="balance", url=args.url
    )

    folder = Path("runs", args.job)
    checkpoint = folder / "last.ckpt"
    saving = ModelCheckpoint(folder, save_last=True, enable_version_counter=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=args.epochs,
        callbacks=[saving, BalanceScheduling(sampler)],  # +
        use_distributed_sampler=False,  # +
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    ckpt_path = checkpoint if checkpoint.exists() else None
    trainer.fit(Net(), loader, DataLoader(val_set, batch_size=500), ckpt_path=ckpt_path)
    sampler.close()  # +


if __name__ == "__main__":
    main()
