"""Of the loop that the documents show: five lines are the scheduler's, and it ends by itself."""

import gc
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import Service

ROOT = Path(__file__).parents[3]
WORLD = """
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
epochs = 3
train_set = TensorDataset(torch.randn(130, 4), torch.randn(130, 5), torch.randint(3, (130,)))
layers = torch.nn.Linear(4, 3), torch.nn.Linear(5, 3)
optimiser = torch.optim.SGD([*layers[0].parameters(), *layers[1].parameters()], lr=0.1)

def model(audio, video):
    heads = layers[0](audio), layers[1](video)
    return *heads, sum(heads)

def criterion(*heads_and_labels):
    return sum(cross_entropy(head, heads_and_labels[-1]) for head in heads_and_labels[:-1])

def validate(model):
    return 1.0, 0.4, {"audio": (0.4, 0.3), "video": (0.3, 0.3)}
"""


def block(page: str, language: str, holding: str) -> str:
    """The code block of a page that holds a text."""
    text = (ROOT / page).read_text()
    return next(b for b in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if holding in b)


LOOP = block("README.md", "python", "ScheduledBatchSampler(")
VALIDATION = next(line for line in LOOP.splitlines(keepends=True) if "sampler.validation(" in line)


def test_the_page_on_loops_has_the_same_one() -> None:
    assert block("docs/how-to/train.md", "python", "ScheduledBatchSampler(") == LOOP


def test_five_lines_of_the_training_loop_are_the_schedulers() -> None:
    changed = re.findall(r"^.*# (\d)$", LOOP, re.MULTILINE)
    rest = re.sub(r"^.*# \d$", "", LOOP.replace(VALIDATION, ""), flags=re.MULTILINE)
    assert changed == ["1", "2", "3", "4", "5"]
    assert not re.search(r"sampler|trainer_client|JobSpec|WithIndex|measure|#", rest)


@pytest.mark.parametrize("loop", [LOOP, LOOP.replace(VALIDATION, "")], ids=["with validation", "without validation"])
def test_the_training_loop_trains(
    start_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    service = start_service()
    monkeypatch.setenv("BSS_URL", service.url)
    world: dict[str, Any] = {}
    exec(WORLD + loop, world)
    world.clear()
    gc.collect()  # nobody closes the sampler
    assert not [t for t in threading.enumerate() if t.name.startswith("bss-worker")]
    with service.client() as client:
        state = client.job("run-1")
    assert (state.steps_fed_back, state.next_step, state.samples_measured) == (6, 6, 130)
    assert (state.validation is not None) == (loop == LOOP)


def test_the_end_of_a_script_sends_what_is_queued(start_service: Callable[..., Service]) -> None:
    service = start_service()
    environment = {**os.environ, "BSS_URL": service.url}
    done = subprocess.run([sys.executable, "-c", WORLD + LOOP], env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    with service.client() as client:
        assert client.job("run-1").steps_fed_back == 6


def test_the_curl_examples_work(start_service: Callable[..., Service]) -> None:
    service = start_service()
    script = block("docs/how-to/curl.md", "sh", "curl -X POST").replace("http://127.0.0.1:8765", service.url)
    script = script.replace("curl ", "curl --silent --show-error --fail-with-body ")
    done = subprocess.run(["bash", "-e", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"feedback":["applied","applied","applied"]' in done.stdout
    assert re.search(r'"index":3,"signals":{"similarity":0\.\d+,"loss":\d\.\d+', done.stdout)
    assert '"policy_version":2' in done.stdout


def test_every_policy_is_in_the_table() -> None:
    from bss_service.policies.base import policy_names

    table = (ROOT / "docs/reference/policies.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(policy_names())
