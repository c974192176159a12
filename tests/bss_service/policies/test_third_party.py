"""A policy in a package of its own, installed beside, is found, used and tested without touching this repository."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.packages import install

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "their-policies"
version = "1.0"

[project.entry-points."bss_service.policies"]
every_other = "their_policies:EveryOther"

[tool.setuptools]
py-modules = ["their_policies"]
"""

POLICY = """
from bss_service.core.action import Action
from bss_service.policies.base import Choice, Policy


class EveryOther(Policy):
    kappa: float = 2.0
    _acted: bool = False

    def act(self, observation, rng):
        self._acted = not self._acted
        return Choice(Action(kappa_loss=self.kappa if self._acted else -self.kappa))
"""

RUN = """
from bss_service.job.events import PlanDrawn
from bss_service.job.job import Job
from bss_service.policies.base import create_policy, policy_names
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec

assert "every_other" in policy_names()
policy = PolicySpec(name="every_other", parameters={"kappa": 3.0})
job = Job(JobSpec(name="run", samples=6, modalities=["u", "v"], batch_size=2, policy=policy))
for _ in range(3):
    PlanDrawn().apply(job)
print([decision.action.kappa_loss for decision in job.history.decisions])
"""


TESTS = """
from bss_service.policies.base import Choice
from bss_service.testing import PolicyContract
from their_policies import EveryOther


class TestEveryOther(PolicyContract):
    policy = EveryOther


class TestImpossible(PolicyContract):
    class policy(EveryOther):
        def act(self, observation, rng):
            return Choice(super().act(observation, rng).action, propensity=0.0)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process for which the package is installed."""
    source = tmp_path_factory.mktemp("theirs")
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "their_policies.py").write_text(POLICY)
    return install(source, tmp_path_factory.mktemp("installed"))


def test_an_installed_package_adds_a_policy(installed: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", RUN], env=installed, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[3.0, -3.0, 3.0]", "")


def test_its_author_tests_it_against_the_contract(installed: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "test_theirs.py"]
    done = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True, timeout=60)
    failed = re.findall(r"^FAILED test_theirs.py::(\S+)", done.stdout, re.MULTILINE)
    assert failed == ["TestImpossible::test_its_propensities_are_probabilities_or_densities"], done.stdout + done.stderr
    assert "assert 0 < 0.0" in done.stdout
