import subprocess
import sys
from pathlib import Path

from tests.support.packages import install

PACKAGE = Path(__file__).parents[2] / "examples/policy_package"


def test_once_installed_it_passes_its_own_tests(tmp_path: Path) -> None:
    environment = install(PACKAGE, tmp_path)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", PACKAGE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
