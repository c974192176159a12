"""Known vulnerabilities in requirements.lock, by pip-audit: found ones fail, and what could not be asked is told.

make check        (or: python tools/audit.py)
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[1] / "requirements.lock"
SECONDS = 120
OPTIONS = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", "10"]


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "-r", str(LOCK), *OPTIONS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        code, sentence = verdict(json.loads(done.stdout)["dependencies"])
    except subprocess.TimeoutExpired:
        code, sentence = 0, f"could not run: no answer in {SECONDS} s"
    except (ValueError, KeyError):
        complaints = done.stderr.strip().splitlines() or ["it said nothing"]
        code, sentence = 0, f"could not run: {complaints[-1]}"
    sys.stdout.write(f"dependency audit: {sentence}\n")
    return code


def verdict(packages: list[dict[str, Any]]) -> tuple[int, str]:
    """Exit code, and what to say, of pip-audit's list: a package that its service does not know is not audited."""
    vulnerable = [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'none'}"
        for package in packages
        for flaw in package.get("vulns", [])
    ]
    if vulnerable:
        return 1, "\n  ".join(["found", *vulnerable])
    unknown = sum("skip_reason" in package for package in packages)
    if unknown == len(packages):
        return 0, "could not run: the vulnerability service knows none of the packages"
    rest = f"; {unknown} could not be asked for" if unknown else ""
    return 0, f"no known vulnerability in {len(packages) - unknown} packages{rest}"


if __name__ == "__main__":
    sys.exit(main())
