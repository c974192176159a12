"""A PyTorch script whose training samples a scheduler chooses. Start `bss serve`, then run this file.

The lines that end in `# +` are all that it adds. Run the file again, with more `--epochs`, and it goes on from
its checkpoint; change the policy meanwhile with `bss swap plain bandit --at now`.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from trainer_client import (  # +  # +
    EVIDENCE,
    ConfusionMeter,
    JobSpec,
    ScheduledBatchSampler,
    SchedulerClient,
    WithIndex,
    measure,
    multimodal_loss,
    weighted,
)

CLASSES, TRAIN = 10, 2048


class Net(nn.Module):
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


def make_data() -> tuple[TensorDataset, TensorDataset]:
    """Training and validation set. The sound tells the classes apart better than the video does."""
    label = torch.randint(CLASSES, (TRAIN + 1000,))
    audio = torch.randn(CLASSES, 20)[label] + 2 * torch.randn(len(label), 20)
    video = torch.randn(CLASSES, 30)[label] + 4 * torch.randn(len(label), 30)
    data = audio, video, label
    return TensorDataset(*(t[:TRAIN] for t in data)), TensorDataset(*(t[TRAIN:] for t in data))


def judge(logits: Tensor, label: Tensor) -> tuple[float, float]:
    """Accuracy, and mean probability of the true label."""
    probability = logits.softmax(dim=1).gather(1, label[:, None])
    return (logits.argmax(dim=1) == label).float().mean().item(), probability.mean().item()


@torch.no_grad()
def validate(model: Net, val_set: TensorDataset, confusion: ConfusionMeter) -> tuple[float, float, dict[str, tuple]]:
    """Loss and accuracy of the joint head, and what the two others are judged to be."""
    model.eval()
    audio, video, label = val_set.tensors
    audio_logits, video_logits, joint_logits = model(audio, video)
    confusion.add([audio_logits, video_logits], joint_logits, label)  # +
    heads = {"audio": judge(audio_logits, label), "video": judge(video_logits, label)}
    return cross_entropy(joint_logits, label).item(), judge(joint_logits, label)[0], heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of the service (default: BSS_URL, else http://127.0.0.1:8765)")
    parser.add_argument("--job", default="plain", help="name of the run; its checkpoint is runs/NAME.pt")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()

    torch.manual_seed(0)
    train_set, val_set = make_data()
    model = Net()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    shape = {"samples": TRAIN, "modalities": ["audio", "video"], "batch_size": 64}  # +
    spec = JobSpec(name=args.job, **shape, signals=EVIDENCE, weighted=True, policy="balance")  # +
    client = SchedulerClient(args.url)  # +
    sampler = ScheduledBatchSampler(spec, client)  # +
    loader = DataLoader(WithIndex(train_set), batch_sampler=sampler, num_workers=2, persistent_workers=True)  # +

    checkpoint, done = Path("runs", f"{args.job}.pt"), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        sampler.load_state_dict(state["sampler"])  # +
        done = state["epochs"]
        print(f"going on after {done} epochs")

    for epoch in range(done, args.epochs):
        model.train()
        for index, (audio, video, label) in loader:  # +
            audio_logits, video_logits, joint_logits = model(audio, video)
            losses = multimodal_loss([audio_logits, video_logits], joint_logits, label)  # + 0.5 · (joint + unimodal)
            loss = weighted(losses, sampler.batch_of(index))  # +
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            sampler.feedback(index, measure([audio_logits, video_logits], joint_logits, label))  # +
        confusion = ConfusionMeter()  # +
        val_loss, val_accuracy, heads = validate(model, val_set, confusion)
        sampler.validation(loss=val_loss, accuracy=val_accuracy, modalities=heads, confusion=confusion)  # +
        decisions = client.decisions(args.job, start=epoch).decisions  # +
        drawn_by = " then ".join(dict.fromkeys(d.policy for d in decisions if d.epoch == epoch))  # +
        print(f"epoch {epoch}: validation accuracy {val_accuracy:.3f}, drawn by {drawn_by}")
        checkpoint.parent.mkdir(exist_ok=True)
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epochs": epoch + 1}
        torch.save({**state, "sampler": sampler.state_dict()}, checkpoint)  # +


if __name__ == "__main__":
    main()
