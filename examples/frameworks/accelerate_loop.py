"""Accelerate, and a model without unimodal heads: probes stand in for them. Start `bss serve`, then run this file.

    accelerate launch --cpu --num_processes 2 examples/frameworks/accelerate_loop.py

The lines that end in `# +` are all that it adds. One process does as well. Run it again with more `--epochs`, and it
goes on from its checkpoint.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from trainer_client import UnimodalProbes, ValidationMeter  # +
from trainer_client.integrations.accelerate import schedule_prepared  # +

CLASSES, TRAIN, MODALITIES = 10, 2048, ["audio", "video"]


class Net(nn.Module):
    """Two encoders, and one head on both."""

    def __init__(self) -> None:
        super().__init__()
        self.audio = nn.Sequential(nn.Linear(20, 64), nn.ReLU())
        self.video = nn.Sequential(nn.Linear(30, 64), nn.ReLU())
        self.joint_head = nn.Linear(128, CLASSES)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        logits: Tensor = self.joint_head(torch.cat([self.audio(audio), self.video(video)], dim=1))
        return logits


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
    parser.add_argument("--job", default="accelerate", help="name of the run; its checkpoint is in runs/NAME")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()

    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    train_set, val_set = make_data()
    loader = DataLoader(train_set, batch_size=64 // accelerator.num_processes, shuffle=True)
    net = Net()
    model, optimiser = accelerator.prepare(net, torch.optim.Adam(net.parameters(), lr=1e-3))
    loader, sampler = schedule_prepared(  # +
        loader, accelerator, name=args.job, modalities=MODALITIES, policy="balance", url=args.url
    )
    probes = UnimodalProbes({"audio": net.audio, "video": net.video}, CLASSES)  # +
    accelerator.register_for_checkpointing(probes)  # +

    folder = Path("runs", args.job)
    if folder.exists():
        accelerator.load_state(str(folder))
    while sampler.batches_trained < args.epochs * len(loader):
        for index, (audio, video, label) in loader:  # +
            logits = model(audio, video)
            optimiser.zero_grad()
            accelerator.backward(cross_entropy(logits, label))
            optimiser.step()
            sampler.feedback(index, probes.measure(logits, label))  # +
        if accelerator.is_main_process:
            audio, video, label = val_set.tensors
            with torch.no_grad():
                logits = net(audio, video)
            meter = ValidationMeter(MODALITIES)  # +
            meter.add(probes.logits(), logits, label)  # +
            sampler.validation(**meter.report())  # +
            sampler.flush()  # + for the next epoch may be drawn by this report, and another process may ask for it
            print(f"step {sampler.batches_trained}: validation accuracy {meter.report()['accuracy']:.3f}")
        accelerator.save_state(str(folder))
    sampler.close()  # +
    accelerator.end_training()


if __name__ == "__main__":
    main()
