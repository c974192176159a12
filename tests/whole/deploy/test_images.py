"""What the images are made of; that they run, `make compose-test` shows on a container engine."""

import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = (Path(__file__).parents[3] / "requirements.lock").read_text()
PINNED = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", LOCK, re.MULTILINE)}


def installed_with(distribution: str, extra: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """All distributions that come with one, as far as its extra and this machine ask for them."""
    for text in requires(distribution) or []:
        needed = Requirement(text)
        name = canonicalize_name(needed.name)
        if name not in seen and (needed.marker is None or needed.marker.evaluate({"extra": extra})):
            seen |= {name}
            for wanted in ("", *needed.extras):
                seen = installed_with(name, wanted, seen)
    return seen


def test_requirements_lock_pins_all_that_the_service_image_installs_and_torch_is_not_among_it() -> None:
    installed = installed_with("bss-scheduler", "service")
    assert {"fastapi", "starlette", "numpy"} <= installed <= PINNED
    assert "torch" not in installed
