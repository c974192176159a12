"""Requests made from the OpenAPI document, right ones and wrong ones: schemathesis, every operation, all checks on.

    make schemathesis        (or: python -m tests.fuzz.api --cases 5000 --seed 1)

Against a service process of its own, once without a token and once with one. Exits with 1 if a check failed, an
operation was left out or fewer cases than asked for were run.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.support.services import Service
from tests.support.simulated import spec, train

CONFIG: Final = Path(__file__).with_name("schemathesis.toml")
TOKEN: Final = "schemathesis-has-this-token"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000, help="at least so many, of each of the two runs")
    parser.add_argument("--examples", type=int, default=200, help="generated at most for each operation and phase")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    failed = False
    for title, token in (("without a token", None), ("with a token", TOKEN)):
        environment = {"BSS_TOKEN": token} if token else {}
        with Service(flags=["--max-samples", "100000"], environment=environment) as service:
            populate(service, token)
            report, output = schemathesis(service.url, service.folder, args.examples, args.seed, token)
        for line in summary(title, report):
            print(line)
        enough = report["test_cases"]["generated"] >= args.cases
        if not passed(report) or not enough:
            failed = True
            print(output[-20_000:] if enough else f"too few cases: raise --examples above {args.examples}")
    sys.exit(1 if failed else 0)


def populate(service: Service, token: str | None = None) -> None:
    """Make the job that the document's examples name, and let it run."""
    job = spec("run-1", samples=6, batch_size=2)
    with service.client(token=token) as client:
        client.create_job(job)
        train(client, job, range(3))


def schemathesis(
    url: str, folder: Path, examples: int, seed: int, token: str | None = None
) -> tuple[dict[str, Any], str]:
    """Run it against a service: its report, and all that it printed."""
    report = folder / "report.json"
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(CONFIG), "run"),
        *(f"{url}/openapi.json", "--max-examples", str(examples), "--seed", str(seed)),
        *("--generation-database", "none", "--warnings", "off", "--report-json-path", str(report)),
        *(("-H", f"Authorization: Bearer {token}") if token else ()),
    ]
    root = {"PYTHONPATH": str(CONFIG.parents[2])}  # of its hooks, which the configuration names
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=3600, env={**os.environ, **root})
    output = done.stdout + done.stderr
    if not report.exists():
        raise RuntimeError(f"schemathesis gave no report: {output[-2000:]}")
    return json.loads(report.read_text()), output


def passed(report: dict[str, Any]) -> bool:
    """Whether it ended well, with every operation in it."""
    operations = report["operations"]
    return report["exit_code"] == 0 and report["complete"] and operations["tested"] == operations["total"] > 0


def summary(title: str, report: dict[str, Any]) -> list[str]:
    """The lines of the result."""
    cases, operations = report["test_cases"], report["operations"]
    lines = [
        f"{title}: {cases['generated']:,} cases of seed {report['seed']} on {operations['tested']} of "
        f"{operations['total']} operations in {report['running_time']:.0f} s, {len(report['failures'])} failures",
        f"{'':44} {'accepted':>9} {'refused':>9}",
    ]
    for name, phases in sorted(report["valid_rates"].items()):
        accepted = sum(counts["accepted"] for counts in phases.values())
        refused = sum(sum(counts.values()) for counts in phases.values()) - accepted
        lines.append(f"  {name:42} {accepted:9,} {refused:9,}")
    return lines


if __name__ == "__main__":
    main()
