"""Pictures of every view of the page, in light, dark and narrow, for people to look at: make screenshots.

They go to screenshots/; a service of its own runs meanwhile, on which small networks are trained.
"""

import sys
from pathlib import Path
from typing import Any, Final

from bss_service.testing import ServiceProcess
from tests.support.pages import started_browser, train, visit
from trainer_client import SchedulerClient

FOLDER: Final = Path("screenshots")
VIEWS: Final = {
    "jobs": "/",
    "job": "/jobs/run-1",
    "suspects": "/jobs/run-1/samples",
    "sample": "/jobs/run-1/samples/30",
    "compare": "/compare?" + "&".join(f"job=run-{k}&job=run-{k}-control" for k in (1, 3, 4)),
    "alone": "/jobs/run-2",
    "empty": "/jobs/new",
}
LOOKS: Final[dict[str, dict[str, Any]]] = {
    "light": {"viewport": {"width": 1200, "height": 800}},
    "dark": {"viewport": {"width": 1200, "height": 800}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 800}, "device_scale_factor": 2},
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with ServiceProcess() as service, started_browser() as browser:
        for k in (1, 3, 4):
            spec = train(service.url, f"run-{k}", epochs=9, seed=k, swaps={4: "balance", 6: "evidence"})
            train(service.url, f"run-{k}-control", epochs=9, seed=k, policy="uniform")
        train(service.url, "run-2", epochs=3, seed=2)
        with SchedulerClient(service.url) as client:
            client.create_job(spec.model_copy(update={"name": "new"}))
            client.swap("run-1", "uniform", shadow=True)
        for look, options in LOOKS.items():
            with visit(browser, service.url, **options) as seen:
                for name, route in VIEWS.items():
                    seen.open(route)
                    seen.page.screenshot(path=FOLDER / f"{name}-{look}.png", full_page=True)
                seen.open("/jobs/run-1")
                seen.page.get_by_role("button", name="Swap policy…").click()
                seen.page.get_by_role("dialog").wait_for()
                seen.page.screenshot(path=FOLDER / f"swap-{look}.png")
                if seen.errors:
                    sys.exit(f"the page wrote errors: {seen.errors}")
    sys.stdout.write(f"{len(list(FOLDER.glob('*.png')))} pictures in {FOLDER}/\n")


if __name__ == "__main__":
    main()
