"""TRL: trainers that make several completions of each prompt, and whose prompts the scheduler chooses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bss_service.protocol.jobs import JobSpec
from trainer_client.integrations import transformers
from trainer_client.integrations.transformers import INDEX
from trainer_client.logits.given import signals_of
from trainer_client.logits.rewards import measure_rewards
from trainer_client.sampler import ScheduledBatchSampler
from trainer_client.samples.repeated import Repeated
from trainer_client.samples.with_index import WithIndex

DONE = "steps_done"  # of those on the completions of the sampler's next batch, in a checkpoint


class BalanceScheduling(transformers.BalanceScheduling):
    """To be mixed into GRPOTrainer or RLOOTrainer, before it: the scheduler chooses their prompts.

        class Scheduled(BalanceScheduling, GRPOTrainer):
            pass

        trainer = Scheduled(model, reward, args, train_dataset=prompts, scheduling={"name": "run-1"})

    scheduling: fields of the JobSpec but for samples and batch_size; and `url`, `if_exists`, `on_outage`, `groups`. A
    step of the job is what the trainer makes completions of at once: `generation_batch_size / num_generations` prompts,
    each of which comes once an epoch under coverage `epoch`. Processes share out prompts: what each generates at once
    must be whole ones. Its signals are those of `measure_rewards`, of the weighted sum of the reward functions as TRL
    takes it; they are fed back once all training steps on the completions are done.

    `train(resume_from_checkpoint=…)` goes on where the checkpoint was; from the midst of the steps on some completions,
    which no checkpoint holds, with other completions of the same prompts, as TRL does.
    """

    _rewards: tuple[Tensor, Tensor] | None = None  # indices of this process' prompts, and all of their rewards
    _index: Tensor
    args: Any
    model: Any
    accelerator: Any
    num_generations: int
    num_iterations: int
    reward_weights: Tensor
    _step: int

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The trainer's; after the last on some completions the feedback of their prompts."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if self._step % self._steps_each == 0 and self._rewards is not None and self.sampler is not None:
            index, rewards = self._rewards
            self.sampler.feedback(index, measure_rewards(rewards, self.num_generations))
            self._rewards = None
        return loss

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        if self.model.training and self.sampler is not None:
            self._index = torch.tensor([row[INDEX] for row in inputs])
            inputs = [{name: value for name, value in row.items() if name != INDEX} for row in inputs]
        return super()._generate_and_score_completions(inputs)  # type: ignore[misc]

    def _calculate_rewards(self, inputs: list[Any], *args: Any, **kwargs: Any) -> Tensor:
        """(rows of all processes, reward functions)."""
        by_function: Tensor = super()._calculate_rewards(inputs, *args, **kwargs)  # type: ignore[misc]
        if self.model.training and self.sampler is not None:
            first = self.accelerator.process_index * len(inputs)
            own = by_function[first : first + len(inputs)]
            rewards = (own * self.reward_weights.to(own.device)).nansum(dim=1)
            rewards[own.isnan().all(dim=1)] = torch.nan
            self._rewards = self._index[:: self.num_generations], rewards
        return by_function

    @property
    def _steps_each(self) -> int:
        """Training steps on the same completions."""
        return int(self.args.steps_per_generation * self.num_iterations)

    # What is otherwise than of other trainers.

    def _check_order(self, loader: DataLoader[Any]) -> None:
        own = self.args.per_device_train_batch_size * self.args.steps_per_generation
        if own % self.num_generations:
            raise ValueError(
                f"per_device_train_batch_size × steps_per_generation must be whole prompts of {self.num_generations} "
                f"completions each, got {own}: processes share out prompts"
            )

    def _spec(self, loader: DataLoader[Any], options: dict[str, Any]) -> JobSpec:
        options = {"modalities": ["prompt"], "signals": signals_of(measure_rewards), **options}
        if "interval" in options:
            options.setdefault(
                "lag", self._ahead(loader) + self.args.gradient_accumulation_steps // self._steps_each + 1
            )
        batch_size = self.args.generation_batch_size // self.num_generations
        return super()._spec(loader, {"batch_size": batch_size, **options})

    def _loader(self, loader: DataLoader[Any], sampler: ScheduledBatchSampler) -> Any:
        repeated = DataLoader(
            WithIndex(loader.dataset),
            batch_sampler=Repeated(sampler, self.num_generations),
            collate_fn=_with_index,
            **self._workers(loader),
        )
        return _Again(repeated, self._steps_each, lambda: self._step % self._steps_each)

    def _left(self) -> int:
        return super()._left() * self._steps_each - self._step % self._steps_each

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), DONE: self._step % self._steps_each}

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self._step = int(state[DONE])


class _Again:
    """A loader each batch of which comes `times` times, once for each training step on its completions.

    done: tells how many of those on the first batch are done already.
    """

    def __init__(self, loader: DataLoader[Any], times: int, done: Callable[[], int]) -> None:
        self.dataset = loader.dataset
        self._loader, self._times, self._done = loader, times, done

    def __iter__(self) -> Iterator[Any]:
        left = self._times - self._done()
        for batch in self._loader:
            for _ in range(left):
                yield batch
            left = self._times

    def __len__(self) -> int:
        return len(self._loader) * self._times


def _with_index(samples: Sequence[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """TRL's trainers take prompts as they are, and no tensors of them."""
    return [{**row, INDEX: index} for index, row in samples]
