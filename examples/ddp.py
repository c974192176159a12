"""plain_pytorch.py with DistributedDataParallel: each rank trains on its share of every batch that the scheduler draws.

    torchrun --standalone --nproc_per_node 2 examples/ddp.py

The lines that end in `# +` are the scheduler's. One process does as well, with or without torchrun, and a run may go on
from its checkpoint with another number of them.
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from trainer_client import JobSpec, PolicySpec, ScheduledBatchSampler, WithIndex, measure  # +

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
def validate(model: Net, val_set: TensorDataset) -> tuple[float, float, dict[str, tuple[float, float]]]:
    """Loss and accuracy of the joint head, and what the two others are judged to be."""
    model.eval()
    audio, video, label = val_set.tensors
    audio_logits, video_logits, joint_logits = model(audio, video)
    heads = {"audio": judge(audio_logits, label), "video": judge(video_logits, label)}
    return cross_entropy(joint_logits, label).item(), judge(joint_logits, label)[0], heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of the service (default: BSS_URL, else http://127.0.0.1:8765)")
    parser.add_argument("--job", default="ddp", help="name of the run; its checkpoint is runs/NAME.pt")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()

    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    train_set, val_set = make_data()
    net = Net()
    model = DistributedDataParallel(net)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    # Ordered by balance, each sample once an epoch: with `draw`, its default, a sample may come to both ranks.
    policy = PolicySpec(name="balance", parameters={"coverage": "epoch"})  # +
    spec = JobSpec(name=args.job, samples=TRAIN, modalities=["audio", "video"], batch_size=64, policy=policy)  # +
    sampler = ScheduledBatchSampler(spec, args.url)  # +
    loader = DataLoader(WithIndex(train_set), batch_sampler=sampler, num_workers=2, persistent_workers=True)  # +

    checkpoint, done = Path("runs", f"{args.job}.pt"), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        sampler.load_state_dict(state["sampler"])  # +
        done = state["epochs"]

    for epoch in range(done, args.epochs):
        model.train()
        share: list[int] = []
        for index, (audio, video, label) in loader:  # +
            audio_logits, video_logits, joint_logits = model(audio, video)
            unimodal_loss = cross_entropy(audio_logits, label) + cross_entropy(video_logits, label)
            loss = 0.5 * cross_entropy(joint_logits, label) + 0.5 * unimodal_loss  # `measure` takes these weights, too
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            sampler.feedback(index, measure([audio_logits, video_logits], joint_logits, label))  # +
            share += index.tolist()
        shares: list[list[int]] = [[]] * ranks
        dist.all_gather_object(shares, share)
        if rank == 0:
            val_loss, val_accuracy, heads = validate(net, val_set)
            sampler.validation(loss=val_loss, accuracy=val_accuracy, modalities=heads)  # +
            sampler.flush()  # + for the next epoch may be drawn by this report, and another rank may ask for it
            sizes = [len(part) for part in shares]
            twice = sum(sizes) - len(set().union(*shares))
            print(f"epoch {epoch}: validation accuracy {val_accuracy:.3f}, samples by rank {sizes}, repeated {twice}")
            checkpoint.parent.mkdir(exist_ok=True)
            state = {"model": net.state_dict(), "optimiser": optimiser.state_dict(), "epochs": epoch + 1}
            torch.save({**state, "sampler": sampler.state_dict()}, checkpoint)  # +
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
