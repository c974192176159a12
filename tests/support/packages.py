"""Packages of others, installed for a process of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import bss_service

PIP = ("pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir")


def install(source: Path, folder: Path) -> dict[str, str]:
    """The environment of a process for which a package is installed, in `folder`, beside this repository."""
    copy, target = folder / "source", folder / "target"  # pip leaves files in the source
    shutil.copytree(source, copy)
    subprocess.run([sys.executable, "-m", *PIP, "--target", target, copy], check=True, timeout=60)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), str(Path(bss_service.__file__).parents[1])])}
