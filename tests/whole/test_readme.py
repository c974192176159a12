"""What the README shows is what works."""

import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.support.services import Service

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str, holding: str) -> str:
    """The code block of a language that holds a text."""
    return next(b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holding in b)


def test_the_training_loop_trains(start_service: Callable[..., Service]) -> None:
    service = start_service()
    torch.manual_seed(0)
    audio, video = torch.nn.Linear(4, 3), torch.nn.Linear(5, 3)
    train_set = TensorDataset(torch.randn(130, 4), torch.randn(130, 5), torch.randint(3, (130,)))
    world: dict[str, Any] = {
        "DataLoader": DataLoader,
        "epochs": 3,
        "train_set": train_set,
        "model": lambda x, y: (audio(x), video(y), audio(x) + video(y)),
        "criterion": lambda *heads: sum(torch.nn.functional.cross_entropy(h, heads[-1]) for h in heads[:-1]),
        "optimiser": torch.optim.SGD([*audio.parameters(), *video.parameters()], lr=0.1),
        "validate": lambda model: (1.0, 0.4, {"audio": (0.4, 0.3), "video": (0.3, 0.3)}),
    }
    exec(block("python", "ScheduledBatchSampler(").replace("http://127.0.0.1:8765", service.url), world)
    with service.client() as client:
        state = client.job("run-1")
    assert (state.steps_fed_back, state.next_step, state.samples_measured) == (6, 6, 130)
    assert not [t for t in threading.enumerate() if t.name.startswith("bss-courier")]


def test_the_curl_examples_work(start_service: Callable[..., Service]) -> None:
    service = start_service()
    script = block("sh", "curl -X POST").replace("http://127.0.0.1:8765", service.url)
    script = script.replace("curl ", "curl --silent --show-error --fail-with-body ")
    done = subprocess.run(["bash", "-e", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"feedback":["applied"]' in done.stdout
    assert '"policy_version":2' in done.stdout


def test_every_policy_is_in_the_table() -> None:
    from bss_service.policies.base import policy_names

    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == set(policy_names())
