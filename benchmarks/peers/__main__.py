"""The hot call beside its rivals' in one run, round after round in turn, so that a noisy machine disturbs all alike.

    make bench-peers     (python -m benchmarks.peers --rounds 3 --calls 300)

A rival runs in a process of its own with what is in `.peers/NAME` before all else; the target makes that. What can't be
started is said to be missing: there are no figures of it then.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

RIVALS = ("ours", "dlrover", "torchrl", "optuna", "ray_serve")
REFERENCE = "dlrover"
ROOT = Path(__file__).parents[2]


class Rival:
    """A process that does rounds of calls."""

    def __init__(self, name: str) -> None:
        paths = [str(ROOT / ".peers" / name), str(ROOT)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
        self.name = name
        self.errors = TemporaryFile("w+", errors="replace")  # noqa: SIM115  # read at the end
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.peers.rivals.{name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            text=True,
        )

    def is_ready(self) -> bool:
        """Whether it has started; else its process has ended."""
        return self._line("BSS-READY") is not None

    def round(self, calls: int) -> list[float]:
        """Seconds of each call."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        line = self._line("BSS-ROUND ")
        if line is None:
            raise SystemExit(f"{self.name} ended within a round")
        seconds: list[float] = json.loads(line)
        return seconds

    def end(self) -> str:
        """End it; the last line of what it has said of errors."""
        try:
            self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        self.errors.seek(0)
        return next((line for line in reversed(self.errors.read().splitlines()) if line.strip()), "")

    def _line(self, begin: str) -> str | None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(begin):
                return line.removeprefix(begin)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each, in turn")
    parser.add_argument("--calls", type=int, default=300, help="in a round")
    parser.add_argument("--only", nargs="*", choices=RIVALS, default=RIVALS, help="the rivals")
    args = parser.parse_args()
    with ExitStack() as stack:
        rivals = []
        for name in args.only:
            rival = Rival(name)
            stack.callback(rival.end)
            if rival.is_ready():
                rivals.append(rival)
            else:
                print(f"{name}: missing ({rival.end()})", flush=True)
        seconds: dict[str, list[float]] = {rival.name: [] for rival in rivals}
        for _ in range(args.rounds):
            for rival in rivals:
                seconds[rival.name] += rival.round(args.calls)
    print("\n".join(table(seconds)))


def table(seconds: dict[str, list[float]]) -> Sequence[str]:
    """Ratios first, against the rival that is nearest to what we do."""
    base = float(np.median(seconds[REFERENCE])) if seconds.get(REFERENCE) else None
    lines = [f"{'':12} {'ratio':>7} {'p50 ms':>8} {'p99 ms':>8}"]
    for name, values in seconds.items():
        p50, p99 = np.quantile(values, [0.5, 0.99])
        ratio = "" if base is None else f"{p50 / base:.2f}"
        lines.append(f"{name:12} {ratio:>7} {1000 * p50:8.2f} {1000 * p99:8.2f}")
    return lines


if __name__ == "__main__":
    main()
