"""The files of the page: small, of this origin alone, and nothing in them that could run what a job wrote."""

import gzip
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import httpx
import pytest

from bss_service.http.browser import page
from bss_service.http.browser.page import POLICY, page_files
from tests.support.services import Service

STATIC = Path(page.__file__).parent / "static"
MOST = 200_000  # bytes of all files together, compressed
OWN = [path for path in STATIC.rglob("*") if path.suffix in (".js", ".html", ".css") and "vendor" not in path.parts]


def test_the_page_is_served_with_a_policy_that_lets_it_run_its_own_files_alone(service: Service) -> None:
    answer = httpx.get(service.url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers.get_list("content-security-policy") == [POLICY]
    assert "script-src 'self'" in POLICY.split("; ")
    assert "unsafe" not in POLICY
    for name in ("x-content-type-options", "referrer-policy", "cross-origin-resource-policy"):
        assert name in answer.headers


@pytest.mark.parametrize("path", sorted(page_files()))
def test_every_file_is_served_and_need_not_be_sent_twice(service: Service, path: str) -> None:
    answer = httpx.get(service.url + path)
    assert answer.status_code == 200
    again = httpx.get(service.url + path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.head(service.url + path).status_code == 200
    assert httpx.post(service.url + path).status_code == 405


def test_what_the_page_loads_is_there_and_nothing_outside_its_folder_is_served(service: Service) -> None:
    html = page_files()["/"].body.decode()
    for target in re.findall(r'(?:src|href)="(page/[^"]+)"', html):
        assert f"/{target}" in page_files(), target
    for path in (
        "/page/../__init__.py",
        "/page/..%2f__init__.py",
        "/page/index.html",
        "/page/",
        "/page/vendor/LICENSE",
    ):
        assert httpx.get(service.url + path).status_code == 404


def test_all_of_it_weighs_little() -> None:
    weight = sum(len(gzip.compress(file.body)) for file in page_files().values())
    assert 10_000 < weight < MOST


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_file_makes_code_of_text_or_names_another_host(path: Path) -> None:
    text = path.read_text()
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://|style=\"|localStorage"
    )
    assert re.findall(forbidden, text) == []


def test_they_are_installed_with_the_package_and_the_library_with_its_licence() -> None:
    root = Path(page.__file__).parents[3]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["bss_service"]
    for path in (path for path in STATIC.rglob("*") if path.is_file()):
        name = path.relative_to(root / "bss_service").as_posix()
        assert any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns), name
    assert "MIT" in (STATIC / "vendor" / "LICENSE").read_text()
