"""A policy in a package of its own, installed beside, is found and used without touching this repository."""

import os
import subprocess
import sys
from pathlib import Path

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
from bss_service.protocol import JobSpec, PolicySpec

assert "every_other" in policy_names()
policy = PolicySpec(name="every_other", parameters={"kappa": 3.0})
job = Job(JobSpec(name="run", samples=6, modalities=["u", "v"], batch_size=2, policy=policy))
for _ in range(3):
    PlanDrawn().apply(job)
print([decision.action.kappa_loss for decision in job.history.decisions])
"""


def test_an_installed_package_adds_a_policy(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "their_policies.py").write_text(POLICY)
    install = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir"]
    subprocess.run([sys.executable, "-m", *install, "--target", target, source], check=True, timeout=60)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[3.0, -3.0, 3.0]", "")
