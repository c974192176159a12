"""What an installation pulls in, and what imports without the rest."""

import subprocess
import sys
from importlib.metadata import requires

import pytest


def names(extra: str | None) -> set[str]:
    """Names of the packages that an installation with an extra pulls in, its own extra's only."""
    wanted = set()
    for requirement in requires("bss-scheduler") or []:
        name, _, marker = requirement.partition(";")
        of_extra = f'extra == "{extra}"' in marker if extra else "extra ==" not in marker
        if of_extra:
            wanted.add(name.strip().split("[")[0].split("=")[0].split(">")[0].split("<")[0].strip())
    return wanted


def test_the_client_alone_is_light() -> None:
    assert names(None) == {"numpy", "httpx", "safetensors", "pydantic"}


def test_the_service_needs_no_torch() -> None:
    assert "torch" not in names("service")


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        ("trainer_client.client", ["torch", "fastapi", "uvicorn", "sqlalchemy", "typer", "rich", "structlog"]),
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
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in missing)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {blocked}import {module}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
