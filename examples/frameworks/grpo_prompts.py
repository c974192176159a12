"""TRL's GRPOTrainer, whose prompts a scheduler chooses. Start `bss serve`, then run this file.

The lines that end in `# +` are all that it adds. A small transformer learns to answer each of 16 words by the letter of
its class, in half a minute. Prompts that it always answers right, or always wrong, teach a group-relative advantage
nothing: the scheduler draws those more often whose completions earned different rewards. Run the file again with more
`--epochs`, and it goes on from its checkpoint.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer

from trainer_client.integrations.trl import BalanceScheduling  # +

WORDS, LETTERS, COMPLETIONS = 16, "abcd", 8
VOCABULARY = ["<pad>", "<eos>", *LETTERS, *(f"word{k}" for k in range(WORDS))]


class Scheduled(BalanceScheduling, GRPOTrainer):  # +
    """GRPO over prompts that the scheduler chooses."""  # +


def reward(completions: list[str], letter: list[str], **_: Any) -> list[float]:
    """1 for the letter of the prompt's class."""
    return [float(completion.strip() == right) for completion, right in zip(completions, letter, strict=True)]


def tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token."""
    words = Tokenizer(models.WordLevel({word: k for k, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def model() -> Qwen2ForCausalLM:
    """With random weights: nothing is downloaded."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(VOCABULARY),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=16,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of the service (default: BSS_URL, else http://127.0.0.1:8765)")
    parser.add_argument("--job", default="grpo", help="name of the run; its checkpoints are in runs/NAME")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()

    torch.manual_seed(0)
    words = range(WORDS)
    prompts = Dataset.from_dict({"prompt": [f"word{k}" for k in words], "letter": [LETTERS[k % 4] for k in words]})
    folder = Path("runs", args.job)
    arguments = GRPOConfig(
        output_dir=str(folder),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=8 * COMPLETIONS,  # 8 prompts
        num_generations=COMPLETIONS,
        max_completion_length=1,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
        logging_strategy="epoch",
        save_steps=8,  # four epochs
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
    )
    policy = {"name": "fixed", "parameters": {"coverage": "draw", "kappa_similarity": -2.0, "floor": 0.2}}  # +
    trainer = Scheduled(
        model=model(),
        reward_funcs=reward,
        args=arguments,
        train_dataset=prompts,
        processing_class=tokenizer(),
        scheduling={"name": args.job, "policy": policy, "url": args.url},  # +
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.exists() else None)
    for entry in trainer.state.log_history:
        if "reward" in entry:
            print(f"epoch {entry['epoch']:.0f}: mean reward {entry['reward']:.3f}")


if __name__ == "__main__":
    main()
