"""The page at `/`: what its files are, and with which headers they are served. It calls the interface as others do."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

POLICY: Final = "; ".join(  # what a browser lets the page do: load its own files, and ask its own service
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob:",  # blobs: pictures of samples, which take a token to get
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page."""

    body: bytes
    headers: dict[str, str]


def page_files() -> dict[str, PageFile]:
    """All files of the page by their path; `/` is the page itself, and all it loads is below `/page/`."""
    found = {
        f"/page/{path}": _file(path, entry.read_bytes()) for path, entry in _walk(files(__package__) / "static", "")
    }
    return {"/": found.pop("/page/index.html"), **found}


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    rows: list[tuple[str, Traversable]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            rows += _walk(entry, f"{prefix}{entry.name}/")
        elif entry.name.rpartition(".")[2] in _TYPES:
            rows.append((prefix + entry.name, entry))
    return rows


def _file(path: str, body: bytes) -> PageFile:
    headers = {
        "content-type": _TYPES[path.rpartition(".")[2]],
        "content-security-policy": POLICY,
        "cache-control": "no-cache",  # kept, and asked for again each time: an upgrade must show at once
        "etag": f'"{hashlib.sha256(body).hexdigest()[:24]}"',
    }
    return PageFile(body, headers)
