"""Every code block of the documents is run, from the top of its page to the bottom, against a real service."""

import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from bss_cli.commands import app
from tests.support.services import Service
from tests.whole.documents.test_loop import LOOP, WORLD

ROOT = Path(__file__).parents[3]
ASIDE = ("CHANGELOG.md", "docs/notebooks/", "site/")
PAGES = [
    str(path.relative_to(ROOT))
    for glob in ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/results/*.md")
    for path in sorted(ROOT.glob(glob))
    if "```" in path.read_text() and not str(path.relative_to(ROOT)).startswith(ASIDE)
]
BLOCK = re.compile(r'^( *)```(\w+)(?: title="([^"]+)")?\n(.*?)^\1```', re.MULTILINE | re.DOTALL)
SEEDS = range(3)
SAID = {"docs/tutorial.md": r"(9\d|100) of the 100 most suspect labels are wrong; 20% of all are"}

# What is not run here, and why; its options, extras, targets and files are checked nevertheless.
STOOD_IN = {
    "bss serve": "a service is there already",
    "bss watch": "goes on until Ctrl-C",
    "bss research": "takes minutes: tests/bss_cli/test_research.py",
    "bss bench": "takes an hour: tests/envs/research/suite",
    "bss data check data/": "its folders are made by tests/trainer_client/reference/datasets",
    "bss upload": "uploads what `bss research` would have made",
    "bss swap run-1 --artefact": "swaps in what `bss upload` would have uploaded",
    "bss swap plain": "the job of an example that is run by tests/examples",
    "bss track run-1 --to wandb": "needs an account: tests/bss_cli/following",
    "python examples": "tests/examples runs these",
    "node examples": "tests/examples runs it",
    "python -m trainer_client.reference --data watch": "tests/trainer_client/reference runs it",
    "python -m trainer_client.reference --data crema-d": "tests/trainer_client/reference/datasets runs it",
    "python -m benchmarks": "takes minutes to hours",
    "python3 -m venv": "there is one",
    ". .venv": "there is one",
    "pip install": "is installed",
    "pytest examples": "tests/examples runs these",
    "torchrun": "tests/examples runs it",
    "accelerate launch": "tests/examples runs it",
    "make": "takes minutes",
    "docker-compose": "needs a container engine: make compose-test",
    "export BSS_TOKEN": "the service would ask for it",
    "export SERVER": "tests/whole/cluster/test_drills.py",
    "pg_dump": "tests/whole/cluster/test_drills.py runs it",
    "pg_restore": "tests/whole/cluster/test_drills.py runs it",
    "psql": "tests/whole/cluster/test_drills.py runs it",
}

# What the snippets of a page may have at hand, beside the world of the loop.
GIVEN = """
from trainer_client import JobSpec, ScheduledBatchSampler, SchedulerClient, WithIndex, measure

model.state_dict = lambda: {}
model.load_state_dict = lambda state: None
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all pages."""
    with Service(tmp_path_factory.mktemp("documents")) as service:
        yield service


@pytest.fixture
def empty(running: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The service without jobs, as `BSS_URL` and for the commands that work on its store; a folder to work in."""
    with running.client() as client:
        for job in client.jobs().jobs:
            client.delete_job(job.spec.name)
    monkeypatch.chdir(tmp_path)
    for name, value in {"BSS_URL": running.url, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "files.txt").write_text("".join(f"clip-{k}.wav\n" for k in range(130)))
    return running


def train(name: str, policy: str, seed: int) -> None:
    """A run of the loop that the documents show."""
    loop = LOOP.replace('name="run-1"', f'name="{name}", policy="{policy}", seed={seed}')
    run_python(WORLD + loop, {})


def trained_before(page: str) -> None:
    """The runs that a page speaks of and doesn't make: run-1 … run-3 under a policy, and their controls."""
    text = (ROOT / page).read_text()
    if "run-1" not in text or "JobSpec(" in text:
        return
    for seed in SEEDS:
        name = f"run-{seed + 1}"
        if name in text:
            train(name, "balance", seed)
            if "bss compare" in text:
                train(f"{name}-control", "uniform", seed)


def check(words: list[str]) -> None:
    """What can be told of a command without running it."""
    program, *rest = words
    if program == "bss":
        command, name = typer.main.get_command(app), "bss"
        while rest and rest[0] in getattr(command, "commands", {}):
            name, rest = rest[0], rest[1:]
            command = command.commands[name]
        command.make_context(name, list(rest))
    elif program in ("python", "pytest", "torchrun", "accelerate", "node"):
        if rest[0] == "-m":
            assert importlib.util.find_spec(rest[1]), rest[1]
        else:
            path = next(word for word in rest if word.startswith("examples/"))
            assert (ROOT / path).exists(), path
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = {e for word in rest for part in re.findall(r"^\.\[(.*)\]$", word) for e in part.split(",")}
        assert named <= set(extras), named
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), rest[0]
    elif "--profile" in rest:
        profile = rest[rest.index("--profile") + 1]
        assert f"profiles: [{profile}]" in (ROOT / "docker-compose.yml").read_text()


def run_sh(block: str, service: Service) -> None:
    """The lines of a block: those of `bss` in this process, others by bash."""
    if "curl -X" in block:
        script = block.replace("http://127.0.0.1:8765", service.url).replace("curl ", "curl --silent --fail-with-body ")
        subprocess.run(["bash", "-ec", script], check=True, timeout=60, stdout=subprocess.DEVNULL)
        return
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if any(" ".join(words).startswith(start) for start in STOOD_IN) or words[:1] == ["curl"]:
            check(words)
        elif words[:1] == ["bss"]:
            sure = ["--yes"] if words[1] == "delete" else []  # it asks, and nobody is there
            answer = CliRunner().invoke(app, [*words[1:], *sure], catch_exceptions=False)
            assert answer.exit_code == 0, f"{line}\n{answer.output}"
        elif words[:1] == ["python"] and len(words) == 2:
            runpy.run_path(words[1], run_name="__main__")
        elif words:
            environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{ROOT}"}
            assert words[0] == "python", line
            done = subprocess.run([sys.executable, *words[1:]], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def run_python(block: str, world: dict[str, Any]) -> None:
    """In the page's one namespace; that loader workers do as well is shown by test_loop.py."""
    exec(block.replace("num_workers=2", "num_workers=0"), world)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_work(
    page: str, empty: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "bss backup" in (ROOT / page).read_text():
        monkeypatch.setenv("BSS_STORE", f"sqlite:///{empty.store}")
    trained_before(page)
    world: dict[str, Any] = {"__name__": page}
    run: dict[str, Callable[[str], Any]] = {
        "sh": lambda block: run_sh(block, empty),
        "python": lambda block: run_python(block, world),
        "toml": tomllib.loads,
        "text": str,
    }
    found = BLOCK.findall((ROOT / page).read_text())
    if any(language == "python" and not title for _, language, title, _ in found):
        exec(WORLD + GIVEN, world)
    for indent, language, title, text in found:
        block = re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
        if title:
            Path(title).write_text(block)
        else:
            run[language](block)
    assert re.search(SAID.get(page, ""), capsys.readouterr().out)
