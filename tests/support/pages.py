"""The page in a real browser, and jobs to look at: a small network trained where a quarter of the labels is wrong."""

import io
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from torch.nn import Linear, ModuleList
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, TensorDataset

from tests.support.mislabelled import CLASSES, LABELS, SAMPLES, SIGNALS, TRUTH
from trainer_client import JobSpec, ScheduledBatchSampler, ValidationMeter, WithIndex, measure, weighted

NO_SWAPS: Final[Mapping[int, str]] = {}
WAIT: Final = 60_000  # ms: the machine may be busy with other tests
GO: Final = """hash => location.hash === hash || new Promise(done => {
  addEventListener("hashchange", done, {once: true});
  location.hash = hash;
})"""


class Student(torch.nn.Module):
    """Two unimodal heads whose logits add up to the joint ones."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = ModuleList([Linear(8, CLASSES), Linear(8, CLASSES)])

    def forward(self, *inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        unimodal = [head(x) for head, x in zip(self.heads, inputs, strict=True)]
        return unimodal, torch.stack(unimodal).sum(dim=0)


def train(
    url: str, name: str, epochs: int = 4, seed: int = 0, swaps: Mapping[int, str] = NO_SWAPS, **fields: Any
) -> JobSpec:
    """Train a small network through the service; pictures and texts of its suspects are sent at the end.

    swaps: policies by the epoch before which they are swapped in.
    """
    torch.manual_seed(seed)
    truth = torch.from_numpy(TRUTH)
    inputs = [one_hot(truth, 8) * strength + torch.randn(SAMPLES, 8) for strength in (4.0, 1.5)]
    labels = torch.from_numpy(LABELS)
    spec = JobSpec(
        **{
            "name": name,
            "samples": SAMPLES,
            "modalities": ["audio", "video"],
            "batch_size": 8,
            "seed": seed,
            "signals": SIGNALS,
            "weighted": True,
            "policy": {"name": "evidence", "parameters": {"start": 2, "ramp": 1}},
            **fields,
        }
    )
    student = Student()
    optimiser = torch.optim.SGD(student.parameters(), lr=0.3)
    with ScheduledBatchSampler(spec, url) as sampler:
        loader = DataLoader(WithIndex(TensorDataset(*inputs, labels)), batch_sampler=sampler)
        for epoch in range(epochs):
            if epoch in swaps:
                sampler.client.swap(name, swaps[epoch])
            for index, (audio, video, label) in loader:
                unimodal, joint = student(audio, video)
                losses = torch.nn.functional.cross_entropy(joint, label, reduction="none")
                loss = weighted(losses, sampler.batch_of(index)) if spec.weighted else losses.mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                sampler.feedback(index, measure(unimodal, joint, label))
            with torch.no_grad():
                sampler.validation(**_validation(student, inputs, truth, spec))
        sampler.flush()
        sampler.describe(_shown, samples=40)
    return spec


def _validation(student: Student, inputs: list[torch.Tensor], truth: torch.Tensor, spec: JobSpec) -> dict[str, Any]:
    meter = ValidationMeter(spec.modalities)
    meter.add(*student(*inputs), truth)
    told = meter.report()
    return {name: told[name] for name in ("loss", "accuracy", "modalities")}


def _shown(index: int) -> str | bytes:
    return _picture(index) if index % 2 else f"sample {index} <b>shows</b> “it”"


def _picture(index: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (48, 48), (index * 2 % 256, 120, 255 - index)).save(file, "PNG")
    return file.getvalue()


@dataclass
class Visit:
    """A tab, and all that went wrong in it or left for elsewhere."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, route: str = "/") -> None:
        """Go to a view, and wait until it shows what there is."""
        if self.page.url.startswith(self.url):
            self.page.evaluate(GO, f"#{route}")
        else:
            self.page.goto(f"{self.url}/#{route}")
        self.page.locator("main:not([aria-busy]) h1").wait_for()

    @property
    def strangers(self) -> list[str]:
        """Requests to another origin."""
        own = urlsplit(self.url).netloc
        return [url for url in self.requests if urlsplit(url).scheme != "blob" and urlsplit(url).netloc != own]


def walk(seen: Visit, job: str) -> dict[str, tuple[int, str]]:
    """The clicks from the list of jobs to the answer of each question about one, and what stands there."""
    questions = {
        "is it helping?": ([job], "section:has(h2:text('Is it helping?')) p >> nth=0"),
        "which labels are wrong?": ([job, "Which samples are suspect?"], "tbody tr >> nth=0"),
        "which modality is weak, since when?": ([job], "p:text-matches('weakest modality')"),
        "why was this sample drawn?": (
            [job, "Which samples are suspect?", "tbody a >> nth=0"],
            "section:has(h2:text('Why was it drawn?')) p >> nth=0",
        ),
        "what did the swap do?": ([job], "section:has(h2:text('What did the swaps do?')) tbody tr >> nth=1"),
    }
    answers = {}
    for question, (clicks, answer) in questions.items():
        seen.open("/")
        for target in clicks:
            link = seen.page.get_by_role("link", name=target, exact=True)
            (seen.page.locator(target) if target.startswith("tbody") else link).click()
        answers[question] = (len(clicks), " | ".join(seen.page.locator(answer).inner_text().split("\t")))
    return answers


def chromium() -> str:
    """The browser's path; without one the test is skipped, and fails in CI."""
    found = shutil.which("chromium")
    if found is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("no chromium: apt-get install chromium")
    return str(found)


@contextmanager
def started_browser() -> Iterator[Browser]:
    """Chromium, headless."""
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A tab of its own. options: of the browser's context."""
    context: BrowserContext = browser.new_context(**{"locale": "en-GB", **options})
    context.set_default_timeout(WAIT)
    seen = Visit(context.new_page(), url)
    seen.page.on("console", lambda line: seen.errors.append(line.text) if line.type == "error" else None)
    seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    yield seen
    context.close()
