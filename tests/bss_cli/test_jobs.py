"""`bss show`, `decisions`, `samples`, `export`, `import` and `delete` against a running service."""

import io
import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from rich.panel import Panel
from rich.text import Text
from typer.testing import CliRunner

from bss_cli.commands import app
from bss_cli.rendering import in_words, sparkline
from bss_cli.terminal import Screen
from bss_service.core.action import Action
from bss_service.protocol.decisions import DecisionLog
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.samples import SampleList, SampleRow, SampleState, csv_of
from bss_service.protocol.training import StepsRequest
from tests.bss_cli.conftest import BSS, NAMES, PATIENCE, Run, begin, train
from tests.support.services import Service
from tests.trainer_client.support.hostile import Hostile, Pieces, said, with_body
from trainer_client import ScheduledBatchSampler, SchedulerClient

BAD = """
from bss_service.policies import Policy

class Bad(Policy):
    def act(self, observation, rng):
        raise ValueError("no weights for this job")
"""


def in_a_terminal(*command: str, answer: str) -> tuple[int, str]:
    """Exit status and output of a command to which someone answers at a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([BSS, *command], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        output, _ = process.communicate(timeout=PATIENCE)
    os.close(ours)
    return process.returncode, output.decode()


@pytest.fixture
def wide(url: str) -> Run:
    """Runs `bss` in a terminal of 160 columns."""
    return lambda *arguments: CliRunner().invoke(app, arguments, env={"BSS_URL": url, "COLUMNS": "160"})


# decisions and samples


def test_decisions_tell_steps_policy_action_propensity_and_what_came_of_it(wide: Run, client: SchedulerClient) -> None:
    name = begin(client, "fixed", kappa_loss=2, coverage="draw")
    train(client, name, intervals=3)
    header, *rows = wide("decisions", name).stdout.splitlines()
    assert header.split() == ["no.", "steps", "policy", "chose", "propensity", "left", "out", "loss", "less", "reward"]
    chose = "prefers easy samples (+2), with replacement"
    assert [row.split()[:4] for row in rows] == [[str(k), f"{8 * k}–{8 * k + 7}", "fixed", "v1"] for k in range(3)]
    last = client.decisions(name).decisions[-1]
    assert last.gain == pytest.approx(1 / 17 - 1 / 25)  # as reported
    assert rows[-1].split(chose)[1].split() == ["1", "0", f"{last.gain:+.4f}", f"{last.reward:+.3f}"]


def test_decisions_are_shown_in_parts_the_latest_first(wide: Run, client: SchedulerClient, job: str) -> None:
    train(client, job, intervals=4)
    latest = wide("decisions", job, "--count", "2").stdout.splitlines()
    assert [row.split()[0] for row in latest[1:3]] == ["2", "3"]
    assert latest[3] == "decisions 2 to 3 of 4; --start shows others"
    first = wide("decisions", job, "--start", "0", "--count", "1").stdout.splitlines()
    assert [row.split()[0] for row in first[1:2]] == ["0"]
    assert "no decision 9 yet: there are 4" in wide("decisions", job, "--start", "9").stdout


def test_decisions_in_json_are_that_part_of_the_log(bss: Run, client: SchedulerClient, job: str) -> None:
    train(client, job, intervals=3)
    log = DecisionLog.model_validate_json(bss("decisions", job, "--json").stdout)
    assert log == client.decisions(job)
    part = DecisionLog.model_validate_json(bss("decisions", job, "--json", "--start", "1", "--count", "1").stdout)
    assert part == client.decisions(job, 1, 1)


def test_samples_without_an_index_lists_the_hardest(bss: Run, client: SchedulerClient, job: str) -> None:
    train(client, job, intervals=2)
    header, *rows, count = bss("samples", job, "--limit", "3").stdout.splitlines()
    assert header.split() == ["sample", "loss", "draws", "last", "measured"]
    assert [int(row.split()[0]) for row in rows] == [row.index for row in client.samples(job, "loss", 3).samples]
    assert count == "3 of 64 by loss"


def test_samples_in_an_order_that_the_job_does_not_have_are_refused(bss: Run, job: str) -> None:
    result = bss("samples", job, "--order", "label")
    assert (result.exit_code, "order must be loss or draws" in result.stderr) == (1, True)


def test_show_tells_the_groups_of_a_job_and_what_is_drawn_of_them(bss: Run, client: SchedulerClient) -> None:
    names = [f"domain-{k}" for k in range(9)]
    client.create_job(JobSpec(name="grouped", samples=9, modalities=["x"], batch_size=3, groups=names))
    assert "not sent yet" in bss("show", "grouped").output
    client.set_groups("grouped", np.arange(9, dtype=np.uint16))
    shown = bss("show", "grouped").output
    assert "not sent yet" not in shown
    assert "9: domain-0, domain-1" in " ".join(shown.split())
    assert in_words(Action(group_balance=0.5)) == "balances groups (0.5)"
    assert in_words(Action(mixture={"web": 0.2, "books": 0.7})) == "draws 70% of books, 20% of web"


def test_an_action_is_told_in_words() -> None:
    assert in_words(Action()) == "plain shuffling"
    assert in_words(Action(kappa_loss=-1.5, coverage="subset", share=0.5, keep="bottom")) == (
        "prefers hard samples (-1.5), bottom 50% by balance"
    )
    assert in_words(Action(belief=0.3, probes=0.05, wrong_pairs="mask")) == (
        "leaves out labels right below 30%, masks such pairs, looks at 5.0% of what is left out"
    )


def test_a_sparkline_goes_from_the_lowest_to_the_highest_and_ends_with_the_last() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([0.3, 0.3]) == "▁▁"
    assert sparkline([*range(99), 0], width=4) == "▃▆█▁"
    assert sparkline([]) == ""


def test_samples_shows_what_is_known_of_each(bss: Run, client: SchedulerClient, job: str) -> None:
    train(client, job, intervals=2)
    shown = bss("samples", job, "3", "5").stdout
    third = client.sample(job, 3)
    assert "sample 3" in shown
    assert "sample 5" in shown
    assert f"balance score   {third.balance_score:.4g}" in shown
    assert f"step {third.draws[0].step}, probability {third.draws[0].probability:.3g}" in shown


def test_samples_in_json_are_a_line_each(bss: Run, client: SchedulerClient, job: str) -> None:
    lines = bss("samples", job, "3", "5", "--json").stdout.splitlines()
    assert [SampleState.model_validate_json(line) for line in lines] == [client.sample(job, 3), client.sample(job, 5)]


def test_a_sample_that_the_job_does_not_have_is_told(bss: Run, job: str) -> None:
    result = bss("samples", job, "64")
    assert (result.exit_code, result.stderr) == (1, "error: sample must be less than samples = 64, got 64\n")


# show


def test_show_tells_why_a_policy_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = tmp_path / "theirs-1.0.dist-info"
    theirs.mkdir()
    (theirs / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (theirs / "entry_points.txt").write_text("[bss_service.policies]\nbad = theirs:Bad\n")
    (tmp_path / "theirs.py").write_text(BAD)
    monkeypatch.syspath_prepend(tmp_path)
    sentence = "plain shuffling stands in: ValueError: no weights for this job"
    with Service() as service, SchedulerClient(service.url) as client:
        job = begin(client, "bad")
        environment = {"BSS_URL": service.url, "COLUMNS": "120"}
        shown = CliRunner().invoke(app, ["show", job], env=environment).stdout
        rows = CliRunner().invoke(app, ["decisions", job], env=environment).stdout
        another = client.job(job).spec.model_copy(update={"name": "another"})
        with ScheduledBatchSampler(another, client) as sampler:
            next(iter(sampler))
    assert f"bad v1 from step 0 failed, {sentence}" in shown
    assert "plain shuffling: ValueError: no weights for this job" in rows
    assert f"the policy of job 'another' failed, and {sentence}" in caplog.text


def test_show_does_not_count_beyond_the_end_of_a_run(bss: Run, client: SchedulerClient) -> None:
    spec = JobSpec(name="finished", samples=64, modalities=["image", "text"], batch_size=8, horizon=16)
    client.create_job(spec)
    train(client, "finished", intervals=2)
    assert "16 of 16 " in bss("show", "finished").stdout
    client.steps("finished", StepsRequest(start=16, count=2))  # a loader that fetches ahead
    assert "16 of 16, and 2 fetched ahead" in bss("show", "finished").stdout


# export and import


def test_a_job_that_is_exported_and_imported_draws_what_it_would_have_drawn(
    bss: Run, client: SchedulerClient, job: str, tmp_path: Path
) -> None:
    file = tmp_path / "job.bss"
    assert bss("export", job, str(file)).stdout.endswith(f": job {job}, {file.stat().st_size} bytes\n")
    assert bss("import", f"{job}-again", str(file)).stdout == f"{job}-again: as exported, at step 1\n"
    came = [client.steps(name, StepsRequest(start=1, count=7)).batches.indices for name in (job, f"{job}-again")]
    np.testing.assert_array_equal(*came)


def test_export_overwrites_nothing_unless_it_is_told_to(bss: Run, job: str, tmp_path: Path) -> None:
    file = tmp_path / "job.bss"
    file.write_text("mine")
    refused = bss("export", job, str(file))
    assert (refused.exit_code, file.read_text()) == (2, "mine")
    assert "is there already: --force puts the job in its place" in refused.stderr
    assert bss("export", job, str(file), "--force").exit_code == 0
    assert file.read_bytes()[8:9] == b"{"
    missing = bss("export", job, str(tmp_path / "nowhere" / "file"))
    assert (missing.exit_code, "can't be written: No such file or directory" in missing.stderr) == (2, True)


def test_import_refuses_what_is_no_job_and_a_name_that_is_taken(bss: Run, job: str, tmp_path: Path) -> None:
    file = tmp_path / "job.bss"
    assert "can't be read: No such file or directory" in bss("import", "other", str(file)).stderr
    bss("export", job, str(file))
    assert bss("import", job, str(file)).stderr == f"error: job '{job}' exists already\n"
    file.write_bytes(file.read_bytes()[:-1])
    broken = bss("import", "other", str(file))
    assert (broken.exit_code, "body is not a frame" in broken.stderr) == (1, True)


# delete


def test_delete_with_yes_deletes(bss: Run, client: SchedulerClient, job: str) -> None:
    assert bss("delete", job, "--yes").stdout == f"{job}: deleted\n"
    assert job not in [state.spec.name for state in client.jobs().jobs]


def test_delete_does_nothing_where_nobody_can_be_asked(bss: Run, client: SchedulerClient, job: str) -> None:
    result = bss("delete", job)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "gone for good: only --yes does that where nobody can be asked" in result.stderr
    assert client.job(job).next_step == 1


def test_delete_asks_at_a_terminal(url: str, client: SchedulerClient, job: str) -> None:
    status, output = in_a_terminal("delete", job, "--url", url, answer="n")
    assert status == 1
    assert f"job {job} and all that is known of it will be gone for good. Go on? [y/N]" in output
    assert client.job(job).next_step == 1
    status, output = in_a_terminal("delete", job, "--url", url, answer="y")
    assert status == 0
    assert f"{job}: deleted" in output


def test_deleting_a_job_that_is_not_there_is_told(bss: Run) -> None:
    assert bss("delete", "nobody", "--yes").stderr == "error: job 'nobody' is not known\n"


# What others wrote

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b1m\x7f\u202e\u200b"
TOLD = {"error", "description", "policy", "name", "arm", "raw_action", "detail", "weakest_modality"}


def spoil(message: Any, within: str = "") -> None:
    """Let each sentence and name end by what moves the cursor, but for the job's own, which is asked for."""
    for key, value in message.items() if isinstance(message, dict) else enumerate(message):
        if isinstance(value, dict | list):
            spoil(value, str(key))
        elif isinstance(value, str) and key in TOLD and within != "spec":
            message[key] = f"{value}{HOSTILE}"


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "people"])
@pytest.mark.parametrize("command", ["jobs", "show", "decisions", "samples", "policies", "watch", "missing"])
def test_no_text_of_others_moves_the_cursor(
    url: str, client: SchedulerClient, command: str, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(NAMES)
    client.create_job(JobSpec(name=name, samples=64, modalities=[f"image{HOSTILE}", "text"], batch_size=8))
    client.steps(name, StepsRequest(start=0))
    monkeypatch.setattr("bss_cli.following.watching.time.sleep", _interrupt)
    arguments = {"jobs": [], "policies": [], "samples": [name, "3"]}.get(command, [name])
    box = Hostile(urlsplit(url).port or 0)
    box.reply = refused if command == "missing" else said(spoil)
    environment = {"BSS_URL": box.url, "BSS_TOKEN": None, "COLUMNS": "80"}
    flags = ["--json"] if as_json else []
    result = CliRunner().invoke(app, ["show" if command == "missing" else command, *arguments, *flags], env=environment)
    box.close()
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    shown = result.stdout + result.stderr
    assert all(character.isprintable() or character == "\n" for character in shown), shown
    assert "x1b" in shown or "u001b" in shown or command == "samples"  # which tells but numbers


def refused(box: Hostile, answer: bytes) -> Pieces:
    problem = json.dumps({"detail": f"no{HOSTILE}"}, ensure_ascii=False).encode()
    yield with_body(answer, problem, b"content-type: application/problem+json", status=b"404 Not Found")


def _interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


def test_names_of_samples_move_no_cursor_and_are_no_formulas_in_a_spreadsheet() -> None:
    listed = SampleList(
        order="loss",
        step=3,
        known=1,
        samples=[SampleRow(index=0, evidence=None, loss=-1.0, draws=1, last_measured=2)],
    )
    assert csv_of(listed, [f"=1+1{HOSTILE}"]).splitlines()[1].startswith("0,'=1+1\\x1b]0;title")
    console = Screen(file=io.StringIO(), width=40, color_system=None)
    console.print(Panel(Text(f"a{HOSTILE}b"), title=Text(HOSTILE)))
    assert all(c.isprintable() or c == "\n" for c in console.file.getvalue())  # type: ignore[attr-defined]
