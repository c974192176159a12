"""TorchRL's prioritised buffer of a million samples in an actor of Ray: a batch of 256, and their new priorities."""

from functools import partial

from benchmarks.peers.loop import answer

G = 256


def main() -> None:
    import ray
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, RayReplayBuffer, ReplayBuffer
    from torchrl.data.replay_buffers.samplers import PrioritizedSampler

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    buffer = RayReplayBuffer(
        replay_buffer_cls=ReplayBuffer,
        storage=partial(LazyTensorStorage, 10**6),
        sampler=partial(PrioritizedSampler, 10**6, alpha=0.7, beta=0.5),
        batch_size=G,
    )
    buffer.extend(TensorDict({"sample": torch.arange(10**6)}, batch_size=10**6))

    def call() -> None:
        batch = buffer.sample()
        buffer.update_priority(batch["index"], torch.rand(G))

    answer(call)


if __name__ == "__main__":
    main()
