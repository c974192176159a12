"""`bss jobs`, `show`, `swap` and `watch` against a running service."""

import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bss_cli import __main__ as cli
from bss_cli.commands import app
from bss_cli.rendering import WatchView, look_view
from bss_service.policies.shipped import shipped_judge
from bss_service.protocol.jobs import JobList, JobState
from bss_service.protocol.policies import PolicyAnswer, PolicyList, PolicySpec
from bss_service.protocol.training import StepsRequest
from tests.bss_cli.conftest import BSS, INTERVAL, PATIENCE, Run, begin, train
from tests.support.trained import made_up
from trainer_client.client import SchedulerClient


def rendered(look: WatchView, width: int) -> str:
    """What `bss watch` shows of a look, as text."""
    console = Console(width=width, file=StringIO(), record=True, markup=False, emoji=False, highlight=False)
    console.print(look_view(look, 1))
    return console.export_text()


def look_at(client: SchedulerClient, job: str) -> WatchView:
    return WatchView(state=client.job(job), decisions=client.decisions(job).decisions, steps_per_second=12.3)


# jobs and show


def test_jobs_lists_jobs_with_step_and_policy(bss: Run, job: str) -> None:
    lines = bss("jobs").stdout.splitlines()
    assert lines[0].split() == ["job", "step", "epoch", "policy", "accuracy", "reward"]
    assert any(line.split() == [job, "1", "0", "uniform", "v1", "–", "–"] for line in lines)


def test_jobs_in_json_is_the_answer_of_the_service(bss: Run, client: SchedulerClient, job: str) -> None:
    asked = JobList.model_validate_json(bss("jobs", "--json").stdout)
    assert asked.heard.keys() >= {job}  # and the time since grows
    assert asked.model_copy(update={"heard": {}}) == client.jobs().model_copy(update={"heard": {}})


def test_show_tells_where_a_job_is(bss: Run, client: SchedulerClient, job: str) -> None:
    train(client, job, intervals=2)
    shown = bss("show", job).stdout
    assert "16 steps, 64 of 64 samples" in shown
    assert "loss 0.0588 after step 16" in shown
    assert "joint 0.620, image 0.510, text 0.560" in shown


def test_show_in_json_is_the_answer_of_the_service(bss: Run, client: SchedulerClient, job: str) -> None:
    assert JobState.model_validate_json(bss("show", job, "--json").stdout) == client.job(job)


# swap


@pytest.mark.parametrize(("at", "first_step"), [("now", 1), ("next", INTERVAL)])
def test_swap_names_version_and_first_step(bss: Run, job: str, at: str, first_step: int) -> None:
    result = bss("swap", job, "balance", "--at", at)
    assert result.stdout == f"{job}: balance is policy version 2 and draws from step {first_step} on\n"


def test_swap_waits_for_the_next_interval_unless_told_otherwise(bss: Run, job: str) -> None:
    assert f"from step {INTERVAL} on" in bss("swap", job, "balance").stdout


def test_a_swap_that_waits_is_shown_as_pending(bss: Run, job: str) -> None:
    bss("swap", job, "balance", "--param", "refresh_every=5")
    pending = next(line for line in bss("show", job).stdout.splitlines() if "pending" in line)
    assert f"balance v2 from step {INTERVAL} (refresh_every=5)" in pending


def test_parameters_are_json_or_else_text(bss: Run, job: str) -> None:
    result = bss("swap", job, "fixed", "--param", "kappa_loss=-1.5", "--param", "keep=bottom", "--json")
    assert PolicyAnswer.model_validate_json(result.stdout) == PolicyAnswer(
        policy=PolicySpec(name="fixed", parameters={"kappa_loss": -1.5, "keep": "bottom"}),
        policy_version=2,
        first_step=INTERVAL,
        changed=True,
    )


def test_a_swap_to_the_policy_in_force_says_that_nothing_changed(bss: Run, job: str) -> None:
    result = bss("swap", job, "uniform", "--at", "now")
    assert result.stdout == (f"{job}: nothing changed, uniform is policy version 1 already and draws from step 0 on\n")


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["nonsense"], "uniform, got 'nonsense'"),
        (["balance", "--param", "ema=2"], "policy.parameters.ema: Input should be less than or equal to 1, got 2"),
        (["balance", "--param", "beta=0.5"], "policy.parameters.beta: Extra inputs are not permitted"),
        (["balance", "--param", "ema=NaN"], "got 'NaN'"),  # which JSON does not have: text
        ([""], "name: String should have at least 1 character, got ''"),
    ],
)
def test_a_wrong_policy_or_parameter_is_told_and_changes_nothing(
    bss: Run, client: SchedulerClient, job: str, arguments: list[str], output: str
) -> None:
    before = client.job(job)
    result = bss("swap", job, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert output in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert client.job(job) == before


@pytest.mark.parametrize("param", ["ema", "=0.5"])
def test_a_parameter_without_a_key_or_a_value_is_refused(bss: Run, job: str, param: str) -> None:
    result = bss("swap", job, "balance", "--param", param)
    assert (result.exit_code, result.stderr) == (2, f"error: --param must be KEY=VALUE, got {param!r}\n")


# policies, upload, and swaps to what was uploaded


@pytest.fixture
def uploaded(bss: Run, tmp_path: Path, job: str) -> str:
    """The name of an uploaded artefact of this test's own."""
    name = f"trained-for-{job}"
    file = tmp_path / "policy.safetensors"
    file.write_bytes(made_up(name=name))
    output = bss("upload", str(file)).stdout
    assert output.startswith(f"{name} is stored as ")
    return name


def test_policies_lists_installed_ones_with_defaults_and_artefacts(bss: Run, uploaded: str) -> None:
    lines = bss("policies").stdout.splitlines()
    assert any(line.split()[:2] == ["balance", "ema=0.6,"] for line in lines)
    assert any(uploaded in line and "gaussian" in line for line in lines)


def test_policies_in_json_is_the_answer_of_the_service(bss: Run, client: SchedulerClient, uploaded: str) -> None:
    assert PolicyList.model_validate_json(bss("policies", "--json").stdout) == client.policies()


def test_a_swap_to_an_artefact_by_name_or_by_the_start_of_its_hash(
    bss: Run, client: SchedulerClient, job: str, uploaded: str
) -> None:
    sha256 = next(a.sha256 for a in client.policies().artefacts if a.name == uploaded)
    by_name = bss("swap", job, "--artefact", uploaded)
    by_hash = bss("swap", job, "--artefact", sha256[:16], "--param", "deterministic=true", "--json")
    assert by_name.stdout == f"{job}: artefact is policy version 2 and draws from step {INTERVAL} on\n"
    assert PolicyAnswer.model_validate_json(by_hash.stdout).policy == PolicySpec(
        name="artefact", parameters={"sha256": sha256, "deterministic": True}
    )


def test_a_judge_is_uploaded_listed_and_told_how_to_use(bss: Run, client: SchedulerClient, tmp_path: Path) -> None:
    file = tmp_path / "judge.safetensors"
    file.write_bytes(shipped_judge().data)
    sha256 = shipped_judge().sha256
    assert bss("upload", str(file)).stdout == f"evidence is stored: bss swap JOB evidence --param judge={sha256}\n"
    assert [judge.sha256 for judge in client.policies().judges] == [sha256]
    assert any(sha256[:12] in line and "judge" in line for line in bss("policies").stdout.splitlines())
    assert client.policy_file(sha256) == file.read_bytes()


def test_an_artefact_that_was_not_uploaded_is_told_with_those_that_were(bss: Run, job: str, uploaded: str) -> None:
    result = bss("swap", job, "--artefact", "no-such")
    assert result.exit_code == 1
    assert uploaded in result.stderr
    assert "got 'no-such'" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["balance", "--artefact", "x"]])
def test_a_swap_is_to_a_policy_or_to_an_artefact(bss: Run, job: str, arguments: list[str]) -> None:
    result = bss("swap", job, *arguments)
    assert (result.exit_code, result.stderr) == (2, "error: either POLICY or --artefact must be given\n")


def test_a_file_that_is_no_artefact_is_told(bss: Run, tmp_path: Path) -> None:
    file = tmp_path / "policy.zip"
    file.write_bytes(b"PK\x03\x04" + bytes(100))
    assert "artefact must be a safetensors file" in bss("upload", str(file)).stderr
    assert "can't be read: No such file" in bss("upload", str(tmp_path / "no-such")).stderr


def test_a_shadow_is_put_shown_and_ended(bss: Run, client: SchedulerClient, job: str) -> None:
    output = bss("swap", job, "balance", "--shadow").stdout
    assert output == f"{job}: balance is shadow 1 and watches from step {INTERVAL} on\n"
    assert f"balance watches from step {INTERVAL}" in bss("show", job).stdout
    train(client, job, intervals=2)
    assert "balance, shadow" in rendered(look_at(client, job), 100)
    assert bss("end-shadow", job).stdout == f"{job}: no shadow watches any more\n"
    assert "watches" not in bss("show", job).stdout


# watch


def test_watch_in_json_prints_a_line_each_look_and_ends_on_sigint(url: str, client: SchedulerClient, job: str) -> None:
    command = [BSS, "watch", job, "--json", "--interval", "0.1", "--url", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = WatchView.model_validate_json(process.stdout.readline())
        client.steps(job, StepsRequest(start=1, count=3))
        looks = (WatchView.model_validate_json(line) for line in process.stdout)
        last = next(look for look in looks if look.state.next_step == 4)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert first.steps_per_second is None
    assert last.steps_per_second is not None
    assert last.steps_per_second > 0


def test_watch_in_a_pipe_prints_one_table_after_another(url: str, job: str) -> None:
    command = [BSS, "watch", job, "--interval", "0.1", "--url", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        speeds = (line for line in process.stdout if "speed" in line)
        assert "–" in next(speeds)
        assert "0.0 steps/s" in next(speeds)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0


def test_watch_in_a_terminal_gives_the_cursor_back_on_sigint(url: str, job: str) -> None:
    ours, theirs = pty.openpty()
    command = [BSS, "watch", job, "--interval", "0.1", "--url", url]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"}
    ) as process:
        os.close(theirs)
        seen = b""
        while seen.count(job.encode()) < 2:
            seen += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # the other end is closed
            while True:
                seen += os.read(ours, 4096)
    os.close(ours)
    assert process.returncode == 0
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")
    assert b"Traceback" not in seen


@pytest.mark.parametrize("width", [80, 120])
def test_what_watch_shows_fits_the_terminal(client: SchedulerClient, width: int) -> None:
    name = begin(client, "fixed", kappa_similarity=2, share=0.5, keep="bottom", floor=0.01)
    train(client, name, intervals=3)
    lines = rendered(look_at(client, name), width).splitlines()
    assert {len(line) for line in lines} == {width}


def test_watch_shows_speed_validation_and_rewards(client: SchedulerClient, job: str) -> None:
    train(client, job, intervals=3)
    shown = rendered(look_at(client, job), 80)
    assert "12.3 steps/s" in shown
    assert "loss 0.0400 after step 24" in shown
    assert "joint 0.620, image 0.510, text 0.560" in shown
    assert shown.count(f"{client.job(job).rewards[-1]:+.3f}") >= 2  # in the summary, and beside its decision


def test_watch_shows_how_a_policys_action_differs_from_plain_shuffling(client: SchedulerClient) -> None:
    shuffled = begin(client, "uniform")
    assert "plain shuffling" in rendered(look_at(client, shuffled), 80)
    weighted = begin(client, "fixed", kappa_loss=-2, coverage="epoch", ema=0.6)
    assert " prefers hard samples (-2) " in rendered(look_at(client, weighted), 80)


def test_watch_shows_the_arm_that_a_bandit_pulled(client: SchedulerClient) -> None:
    name = begin(client, "bandit", warm_up=0)
    [decision] = client.decisions(name).decisions
    assert f"{decision.detail['arm']}, probability {decision.propensity:.3f}" in rendered(look_at(client, name), 80)


def test_watch_shows_why_a_policy_failed(client: SchedulerClient, job: str) -> None:
    look = look_at(client, job)
    failed = look.decisions[0].model_copy(update={"detail": {"error": "ValueError: [bold]no"}})
    assert "plain shuffling: ValueError: [bold]no" in rendered(look.model_copy(update={"decisions": [failed]}), 80)


def test_watch_has_the_latest_decisions_the_newest_on_top(url: str, client: SchedulerClient, job: str) -> None:
    train(client, job, intervals=7)
    command = [BSS, "watch", job, "--json", "--url", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        look = WatchView.model_validate_json(process.stdout.readline())
        process.send_signal(signal.SIGINT)
    assert look.decisions == client.decisions(job, start=2).decisions
    shown = rendered(look, 80)
    assert shown.index("48–55") < shown.index("40–47") < shown.index("16–23")
    assert "8–15" not in shown


# failures


@pytest.mark.parametrize("command", [["show"], ["swap"], ["watch"], ["watch", "--json"]])
def test_an_unknown_job_is_told(bss: Run, command: list[str]) -> None:
    result = bss(*command, "nobody", *(["uniform"] if command == ["swap"] else []))
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "error: job 'nobody' is not known\n")


def test_a_name_that_no_job_can_have_is_refused_before_anything_is_asked(bss: Run) -> None:
    result = bss("show", "run-1/policy")
    assert result.exit_code == 2
    assert "got 'run-1/policy'" in result.stderr


@pytest.mark.parametrize("command", [["jobs"], ["show", "a"], ["swap", "a", "uniform"], ["watch", "a"]])
def test_an_unreachable_service_is_told_with_its_url_and_a_remedy(bss: Run, command: list[str]) -> None:
    result = bss(*command, "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: http://127.0.0.1:1 did not answer")
    assert "`bss serve` starts one" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("address", ["localhost:8765", "http://", "http://[::1", "ftp://localhost"])
def test_a_wrong_url_is_told(bss: Run, address: str) -> None:
    result = bss("jobs", "--url", address)
    assert result.exit_code == 2
    assert repr(address) in result.stderr


@pytest.mark.parametrize("token", ["ключ", "two\nlines"])
def test_a_token_that_no_header_can_hold_is_refused(url: str, token: str) -> None:
    result = CliRunner().invoke(app, ["jobs", "--url", url], env={"BSS_TOKEN": token})
    assert (result.exit_code, result.stderr) == (2, "error: BSS_TOKEN must hold printable ASCII characters only\n")


def test_version_is_that_of_the_distribution(bss: Run) -> None:
    assert bss("--version").stdout == f"bss {version('bss-scheduler')}\n"


def test_without_the_service_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "bss_cli.commands")
    with pytest.raises(SystemExit, match=r"typer is not installed.* pip install 'bss-scheduler\[service\]'"):
        cli.main()


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("torch", "train RUN"),
        ("tensorboard", "train RUN"),
        ("stable_baselines3", "train RUN --algorithm ppo"),
        ("torch", "evaluate balance"),
        ("matplotlib", "evaluate balance"),
        ("gymnasium", "export RUN FILE"),
        ("minari", "dataset mine"),
        ("minari", "ope bss/mine-v0 --policy balance"),
    ],
)
def test_research_without_its_extra_says_what_to_install(tmp_path: Path, package: str, command: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; from bss_cli.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "research", *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    remedy = "what bss research needs comes with pip install 'bss-scheduler[service,trainer,research]'"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {package} is not installed; {remedy}\n"
