"""A stream whose samples a scheduler orders, window by window. Start `bss serve`, then run this file.

Nothing says how many samples there are: their keys make the job grow. The lines that end in `# +` are all that it adds
to a loop over a DataLoader. Run the file again, with more `--epochs`, and it goes on from its checkpoint.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset

from trainer_client import SchedulerClient, measure  # +
from trainer_client.integrations.streams import ScheduledStream  # +

CLASSES, SHARDS, IN_SHARD = 10, 8, 130


class Shards(IterableDataset):
    """Samples as WebDataset gives them: shard by shard, dictionaries with a key."""

    def __iter__(self) -> Iterator[dict]:
        centres = torch.randn(CLASSES, 50, generator=torch.Generator().manual_seed(0))
        for shard in range(SHARDS):
            noise = torch.Generator().manual_seed(1 + shard)
            labels = torch.randint(CLASSES, (IN_SHARD,), generator=noise)
            views = centres[labels] + 2 * torch.randn(IN_SHARD, 50, generator=noise)
            for k, (view, label) in enumerate(zip(views, labels, strict=True)):
                yield {"__key__": f"{shard:06d}/{k:04d}", "audio": view[:20], "video": view[20:], "label": label}


class Net(nn.Module):
    """Late fusion: a head on each modality, and their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.audio, self.video = nn.Linear(20, CLASSES), nn.Linear(30, CLASSES)

    def forward(self, audio: Tensor, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, v = self.audio(audio), self.video(video)
        return a, v, a + v


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of the service (default: BSS_URL, else http://127.0.0.1:8765)")
    parser.add_argument("--job", default="stream", help="name of the run; its checkpoint is runs/NAME.pt")
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()

    torch.manual_seed(0)
    model = Net()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    client = SchedulerClient(args.url)  # +
    dataset = DataLoader(Shards(), batch_size=None)  # with num_workers, workers read ahead
    shape = {"modalities": ["audio", "video"], "batch_size": 64, "window": 256}  # +
    stream = ScheduledStream(dataset, name=args.job, url=client, policy="balance_code", **shape)  # +

    checkpoint, done = Path("runs", f"{args.job}.pt"), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        stream.load_state_dict(state["stream"])  # +
        done = state["epochs"]
        print(f"going on after {done} epochs")

    for epoch in range(done, args.epochs):
        keys, right = [], 0
        for index, batch in stream:  # +
            audio_logits, video_logits, joint_logits = model(batch["audio"], batch["video"])
            loss = cross_entropy(joint_logits, batch["label"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            stream.sampler.feedback(index, measure([audio_logits, video_logits], joint_logits, batch["label"]))  # +
            keys += batch["__key__"]
            right += int((joint_logits.argmax(dim=1) == batch["label"]).sum())
        known = client.job(args.job).spec.samples  # +
        print(f"epoch {epoch}: {len(keys)} samples of {known} known, {right / len(keys):.3f} of them right")
        checkpoint.parent.mkdir(exist_ok=True)
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epochs": epoch + 1}
        torch.save({**state, "stream": stream.state_dict()}, checkpoint)  # +


if __name__ == "__main__":
    main()
