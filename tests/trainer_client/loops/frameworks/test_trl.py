"""TRL's trainers, the real ones, over a tiny model that the test makes: prompts, what they earn, and resumption."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer

from trainer_client import (
    JobSpec,
    Repeated,
    ScheduledBatchSampler,
    SchedulerClient,
    WithIndex,
    measure_rewards,
    signals_of,
)
from trainer_client.integrations import transformers
from trainer_client.integrations.trl import BalanceScheduling

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
NUMBERS = count()
PROMPTS, COMPLETIONS, AT_ONCE = 12, 2, 3  # of a generation: three prompts, two completions each
WORDS = ["<pad>", "<eos>", *(f"w{k}" for k in range(PROMPTS))]
CURIOUS: dict[str, Any] = {"name": "fixed", "parameters": {"coverage": "epoch", "kappa_similarity": -6.0, "ema": 1.0}}


class Scheduled(BalanceScheduling, GRPOTrainer):
    """What a user writes."""


class ScheduledRLOO(BalanceScheduling, RLOOTrainer):
    """Of another of TRL's trainers."""


class Rewards:
    """A reward function: of some prompts both completions earn the same. It keeps which prompts came."""

    __name__ = "earned"

    def __init__(self) -> None:
        self.came: list[list[int]] = []

    def __call__(self, prompts: list[str], completions: list[str], number: list[int], **_: Any) -> list[float]:
        self.came.append(number)
        return rewards_of(number)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Of a model this small several would do nothing but wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rewards_of(numbers: list[int]) -> list[float]:
    """Those of prompts with an even number differ between completions."""
    return [number / 10 + (k % COMPLETIONS) * (number % 2 == 0) for k, number in enumerate(numbers)]


def tokenizer() -> PreTrainedTokenizerFast:
    plain = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config)


def trainer_of(client: SchedulerClient | str, folder: Path, job: dict[str, Any], **options: Any) -> tuple[Any, Rewards]:
    kind, config = (ScheduledRLOO, RLOOConfig) if options.pop("rloo", False) else (Scheduled, GRPOConfig)
    rewards = Rewards()
    args = config(
        output_dir=str(folder),
        **{
            "per_device_train_batch_size": 3,
            "steps_per_generation": 2,
            "gradient_accumulation_steps": 1,
            "num_train_epochs": 2,
            "save_strategy": "no",
            **options,
        },
        num_generations=COMPLETIONS,
        beta=0.0,  # no other model beside it
        max_completion_length=1,
        learning_rate=1e-3,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    prompts = Dataset.from_dict({"prompt": [f"w{k}" for k in range(PROMPTS)], "number": list(range(PROMPTS))})
    made = kind(
        model=model(),
        reward_funcs=rewards,
        args=args,
        train_dataset=prompts,
        processing_class=tokenizer(),
        scheduling={"url": client, "seed": 7, **job},
    )
    return made, rewards


def job_of(**fields: Any) -> dict[str, Any]:
    return {"name": f"trl-{next(NUMBERS)}", **fields}


def plain_loop(client: SchedulerClient, epochs: int = 2, at_once: int = AT_ONCE, **fields: Any) -> list[list[int]]:
    """The same prompts without TRL."""
    spec = JobSpec(
        samples=PROMPTS,
        modalities=["prompt"],
        unimodal_heads=False,
        batch_size=at_once,
        seed=7,
        signals=signals_of(measure_rewards),
        **job_of(**fields),
    )
    came: list[list[int]] = []
    with ScheduledBatchSampler(spec, client) as sampler:
        loader = DataLoader(WithIndex(range(PROMPTS)), batch_sampler=Repeated(sampler, COMPLETIONS))  # type: ignore[arg-type]
        for _ in range(epochs):
            for index, _ in loader:
                came.append(index.tolist())
                rewards = torch.tensor(rewards_of(index.tolist()))
                sampler.feedback(index[::COMPLETIONS], measure_rewards(rewards, COMPLETIONS))
    return came


@pytest.mark.parametrize("options", [{}, pytest.param({"rloo": True}, marks=pytest.mark.long)], ids=["GRPO", "RLOO"])
def test_prompts_come_as_in_a_plain_loop_k_times_in_a_row_by_what_they_earned_and_once_an_epoch(
    client: SchedulerClient, tmp_path: Path, options: dict[str, Any]
) -> None:
    job = job_of(policy=CURIOUS)
    trainer, rewards = trainer_of(client, tmp_path, job, **options)
    trainer.train()
    trainer.sampler.close()
    assert rewards.came == plain_loop(client, policy=CURIOUS)
    assert trainer.state.global_step == 2 * 2 * PROMPTS // AT_ONCE
    for start in (0, 4):
        rows = [number for batch in rewards.came[start : start + 4] for number in batch]
        assert rows[::2] == rows[1::2]
        assert sorted(rows[::2]) == list(range(PROMPTS))
    second = np.argsort([number for batch in rewards.came[4:] for number in batch[::2]])
    assert second[::2].mean() < second[1::2].mean() - 4  # those of which completions differ come first
    for number in (2, 3):
        known, earned = client.sample(job["name"], number).signals, rewards_of([number] * COMPLETIONS)
        assert known["reward"] == pytest.approx(np.mean(earned))
        assert known["reward_variance"] == pytest.approx(np.var(earned))


@pytest.mark.parametrize("stop", [3, pytest.param(2, marks=pytest.mark.long), pytest.param(10, marks=pytest.mark.long)])
def test_a_run_goes_on_from_its_checkpoint_with_the_prompts_of_an_undisturbed_one(
    client: SchedulerClient, tmp_path: Path, stop: int
) -> None:
    whole = plain_loop(client)
    job = job_of()
    first, came = trainer_of(client, tmp_path, job, max_steps=stop, save_strategy="steps", save_steps=stop)
    first.train()
    first.sampler.close()  # as the end of its process does
    assert came.came == whole[: -(-stop // 2)]
    second, rest = trainer_of(client, tmp_path, job)
    second.train(resume_from_checkpoint=True)
    second.sampler.close()
    assert rest.came == whole[stop // 2 :]  # in the midst of a generation its prompts are completed anew
    assert second.state.global_step == 16
    assert client.job(job["name"]).steps_fed_back == 8


def test_processes_share_out_whole_prompts_or_it_is_refused(client: SchedulerClient, tmp_path: Path) -> None:
    trainer, _ = trainer_of(client, tmp_path, job_of(), steps_per_generation=4)
    trainer.args.steps_per_generation = 1
    with pytest.raises(ValueError, match="must be whole prompts of 2 completions each, got 3"):
        trainer.train()


@pytest.mark.long
def test_sft_is_scheduled_as_any_trainer_of_transformers_at_the_cost_of_a_forward_pass(
    client: SchedulerClient, tmp_path: Path
) -> None:
    class ScheduledSFT(transformers.BalanceScheduling, SFTTrainer):
        pass

    job = job_of(url=client)
    args = SFTConfig(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=3,
        max_length=8,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    texts = Dataset.from_dict({"text": [f"w{k} w{(k + 1) % PROMPTS} w{(k + 2) % PROMPTS}" for k in range(PROMPTS)]})
    trainer = ScheduledSFT(model=model(), args=args, train_dataset=texts, processing_class=tokenizer(), scheduling=job)
    trainer.train()
    trainer.sampler.close()
    assert client.job(job["name"]).steps_fed_back == 2 * PROMPTS // 3
    assert isinstance(client.sample(job["name"], 3).signals["loss"], float)
