"""Rivals by name: those of this package, those that were registered, and those that other packages provide."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from trainer_client.reference.rivals.base import Rival

GROUP: Final = "trainer_client.rivals"  # of entry points
BUILT_IN: Final[Mapping[str, str]] = {
    "ogm_ge": "gradients.ogm_ge:OgmGe",
    "agm": "gradients.agm:Agm",
    "pmr": "losses.pmr:Pmr",
    "mmpareto": "gradients.mmpareto:MmPareto",
    "g_blending": "losses.g_blending:GBlending",
    "mslr": "gradients.mslr:Mslr",
    "infobatch": "samples.infobatch:InfoBatch",
    "mla": "steps.mla:Mla",
    "smv": "samples.smv:Smv",
    "lfm": "losses.lfm:Lfm",
    "umt": "losses.umt:Umt",
    "reconboost": "steps.reconboost:ReconBoost",
    "di_mml": "steps.di_mml:DiMml",
    "remix": "samples.remix:Remix",
}

R = TypeVar("R", bound=type[Rival])

_registered: dict[str, type[Rival]] = {}


def register(name: str) -> Callable[[R], R]:
    """A decorator that makes a class of one's own known by a name, in this process."""

    def add(kind: R) -> R:
        _registered[name] = kind
        return kind

    return add


def rival_names() -> list[str]:
    """All that `create_rival` knows, sorted."""
    return sorted({*BUILT_IN, *_registered, *(entry.name for entry in entry_points(group=GROUP))})


def rival_class(name: str) -> type[Rival]:
    """Raises ValueError for a name that nobody provides."""
    if name in BUILT_IN:
        module, kind = BUILT_IN[name].split(":")
        found: type[Rival] = getattr(import_module(f"trainer_client.reference.rivals.{module}"), kind)
        return found
    if name in _registered:
        return _registered[name]
    for entry in entry_points(group=GROUP, name=name):
        return entry.load()  # type: ignore[no-any-return]
    raise ValueError(f"rival must be one of {', '.join(rival_names())}, got {name!r}")


def create_rival(name: str, parameters: Mapping[str, Any]) -> Rival:
    """Raises ValueError for an unknown name, or naming a wrong parameter and its value."""
    kind = rival_class(name)
    try:
        return kind.model_validate(dict(parameters))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        known = ", ".join(kind.model_fields)
        raise ValueError(
            f"parameter {field} of rival {name}: {first['msg']}, got {first['input']!r}; it has {known}"
        ) from None
