"""The interface keeps to its OpenAPI document: schemathesis, every operation, all checks on."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.services import Service
from tests.simulated import spec, train

CONFIG = Path(__file__).with_name("schemathesis.toml")


def test_generated_requests_find_no_failure(start_service: Callable[..., Service], tmp_path: Path) -> None:
    service = start_service("--max-samples", "100000")
    job = spec("run-1", samples=6, batch_size=2)  # the name that the document's examples use
    with service.client() as client:
        client.create_job(job)
        train(client, job, range(3))
    schemathesis = str(Path(sys.executable).with_name("schemathesis"))
    command = [schemathesis, "--config-file", str(CONFIG), "run", f"{service.url}/openapi.json"]
    options = ["--max-examples", "40", "--seed", "1", "--generation-database", "none", "--warnings", "off"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Tested: 26" in done.stdout
