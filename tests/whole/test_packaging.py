"""What an installation pulls in, and what imports without the rest."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from setuptools import find_namespace_packages

import trainer_client

ROOT = Path(__file__).parents[2]
HEAVY = ["torch", "fastapi", "uvicorn", "sqlalchemy", "typer", "rich", "structlog"]
WITHOUT_TORCH = (
    "SchedulerClient, JobSpec, PolicySpec, RewardSpec, StepsRequest, Feedback, FeedbackRequest, Scores, LocalBatches, "
    "ValidationReport, ModalityReport, ScheduledBatch, Stats, OutageError"
)


def names(extra: str | None) -> set[str]:
    """Names of the packages that an installation with an extra pulls in, its own extra's only."""
    wanted = set()
    for requirement in requires("bss-scheduler") or []:
        name, _, marker = requirement.partition(";")
        of_extra = f'extra == "{extra}"' in marker if extra else "extra ==" not in marker
        if of_extra:
            wanted.add(name.strip().split("[")[0].split("=")[0].split(">")[0].split("<")[0].strip())
    return wanted


def test_examples_and_tests_are_not_installed() -> None:
    chosen = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    packages = find_namespace_packages(str(ROOT), **chosen)
    assert {name.partition(".")[0] for name in packages} == {"bss_cli", "bss_service", "envs", "trainer_client"}


def test_the_client_alone_is_light() -> None:
    assert names(None) == {"numpy", "httpx", "safetensors", "pydantic"}


def test_the_service_needs_no_torch() -> None:
    assert "torch" not in names("service")


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        ("trainer_client", [*HEAVY, "numpy", "httpx", "pydantic"]),
        ("trainer_client.client", HEAVY),
        (
            "bss_service.http.app",
            ["torch", "gymnasium", "stable_baselines3", "matplotlib", "pandas", "seglearn"],
        ),
        ("bss_service.core.network", ["torch", "pydantic", "safetensors"]),
        ("bss_cli.commands", ["torch", "fastapi", "matplotlib"]),
        ("bss_service.core.sampling", ["torch", "pydantic", "httpx", "safetensors", "sqlalchemy"]),
        ("bss_service.testing", ["pytest", "torch", "fastapi", "uvicorn", "sqlalchemy", "typer", "trainer_client"]),
        ("bss_service.testing.policies", ["pytest", "torch", "fastapi", "sqlalchemy", "trainer_client"]),
        ("envs", ["torch", "stable_baselines3", "minari", "fastapi"]),
        ("trainer_client.sampler", ["fastapi", "uvicorn", "sqlalchemy", "matplotlib", "rich"]),
    ],
)
def test_modules_import_without_what_they_do_not_need(module: str, missing: list[str]) -> None:
    run_without(missing, f"import {module}")


def test_the_client_and_its_messages_import_without_torch() -> None:
    run_without(HEAVY, f"from trainer_client import {WITHOUT_TORCH}")


def run_without(missing: list[str], statement: str) -> None:
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in missing)
    done = subprocess.run([sys.executable, "-c", f"import sys; {blocked}{statement}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    missing = [name for name in trainer_client.__all__ if not hasattr(trainer_client, name)]
    assert not missing


def test_type_checkers_are_told_the_same_names() -> None:
    tree = ast.parse(Path(trainer_client.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        name.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names
    }
    assert declared == trainer_client._HOMES
    assert dir(trainer_client) == trainer_client.__all__ == sorted(declared)


def test_measure_is_the_function_whatever_was_imported_before() -> None:
    run_without([], "import trainer_client.sampler; from trainer_client import measure; measure.__call__")


def test_a_name_that_is_not_public_is_none() -> None:
    with pytest.raises(AttributeError, match="module 'trainer_client' has no attribute 'Lease'"):
        trainer_client.Lease  # noqa: B018
