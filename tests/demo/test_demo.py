"""The demo as a user runs it, made small; and that nothing is left running after it."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["--seeds", "1", "--epochs", "2", "--swap-epochs", "2", "--policies", "evidence", "oracle"]


def _command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "demo", *SMALL, "--output", str(folder)]


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_a_small_demo_from_end_to_end(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = subprocess.run(_command(folder), cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "they agree" in done.stdout
    content = json.loads((folder / "results.json").read_text())
    runs = content["runs"]
    conditions = [r["run"]["condition"] for r in runs]
    assert [(c["data"], c["noisy_labels"], r["run"]["policy"]) for c, r in zip(conditions, runs, strict=True)] == [
        ("emoji", 0.4, "evidence"),
        ("emoji", 0.4, "oracle"),
        ("emoji", 0.0, "evidence"),
        ("watch", 0.4, "evidence"),
        ("watch", 0.4, "oracle"),
        ("watch", 0.0, "evidence"),
    ]
    assert [len(r["suspects"]) for r in runs] == [100, 0, 100, 100, 0, 100]
    assert content["swap"]["announced"]["first_step"] == content["swap"]["changed_at"]
    assert content["swapped"]["run"]["loader_workers"] > 0
    assert "</html>" in (folder / "report.html").read_text()
    url = re.search(r"http://127\.0\.0\.1:\d+", done.stdout)
    assert url is not None
    assert not _answers(url[0])


@pytest.mark.long
def test_an_interrupted_demo_leaves_nothing_running(tmp_path: Path) -> None:
    process = subprocess.Popen(_command(tmp_path / "demo"), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = next(match[0] for line in process.stdout if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
        assert _answers(url)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, rest
    assert "interrupted" in rest
    assert not _answers(url)
