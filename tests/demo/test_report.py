"""The page: whole by itself, and safe against what stands in the data."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from demo.headline import beside_it, headline
from demo.page.report import page, suspect_sentence
from demo.plan import CONDITIONS
from demo.results import BINS, RIGHT, WRONG, Results, write_results
from demo.summary import rows
from trainer_client.reference.data import Dataset


class Reader(HTMLParser):
    """Collects tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def html(results: Results, load: Callable[[str], Dataset]) -> str:
    return page(results, rows(results), load)


def test_the_page_loads_nothing_from_elsewhere(html: str) -> None:
    reader = Reader(html)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in reader.tags}
    for _, attributes in reader.tags:
        for name in ("src", "href", "xlink:href", "data", "srcset", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), value
        assert not re.search(r"url\((?!#)", attributes.get("style") or "")
        assert not re.search(r"url\((?!#)", attributes.get("clip-path") or "")
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL))
    assert "@import" not in styles
    assert "url(" not in styles


def test_text_of_the_data_stays_text(html: str) -> None:
    assert "<script" not in html
    assert "&lt;script src=&#34;https://evil.example/x.js&#34;&gt;" in html
    assert html.count("</style>") == 1
    reader = Reader(html)
    assert html.count("</svg>") == sum(tag == "svg" for tag, _ in reader.tags)
    assert any("https://evil.example/x.js" in text for text in reader.text)


def test_every_picture_has_a_title_for_those_who_cannot_see_it(html: str) -> None:
    labels = [attributes.get("aria-label") for tag, attributes in Reader(html).tags if tag == "svg"]
    assert len(labels) == len(set(labels)) == 11  # gains and accuracies by condition, beliefs, the swap
    assert all(labels)


def test_the_page_has_no_id_twice(html: str) -> None:
    ids = [attributes["id"] for _, attributes in Reader(html).tags if "id" in attributes]
    shapes = [i for i in ids if i and re.fullmatch(r"[a-z][0-9a-f]{10}", i)]
    assert len(ids) - len(shapes) == len(set(ids) - set(shapes))
    assert len(shapes) == len(set(shapes))


def test_the_page_begins_with_what_was_found(html: str, results: Results) -> None:
    text = "".join(Reader(html).text).replace("\u00a0", " ")
    assert headline(rows(results)) in text
    assert beside_it(rows(results)) in text
    assert "they agree" in text


def test_the_page_says_it_when_the_swap_is_not_as_announced(results: Results, load: Callable[[str], Dataset]) -> None:
    other = replace(results, swap=replace(results.swap, changed_at=15))
    assert "they do not agree" in page(other, rows(other), load)


def test_suspects_have_pictures_where_there_are_any_and_a_table_else(html: str) -> None:
    shown = html[html.index('<section id="suspects">') : html.index('<section id="swap">')]
    emoji, watch = shown.split("<h3>")[1:]
    assert emoji.count("<img") == emoji.count("<li") == 24
    assert (watch.count("<img"), watch.count("<tr>")) == (0, 1 + 8)


def test_the_sentence_about_suspects_follows_the_numbers(results: Results) -> None:
    noisy = CONDITIONS[0]
    beliefs = {RIGHT: [10, *[0] * (BINS - 2), 60], WRONG: [15, *[0] * (BINS - 2), 15]}
    counted = replace(results, runs=[replace(run, beliefs=beliefs) for run in results.runs])
    assert suspect_sentence(counted, noisy) == (
        "emoji, 40 % of the labels redrawn: 30 % of all labels are wrong. Of those that the service holds for wrong "
        "(P(right) below one half) 60 % are, and these are 50 % of all wrong ones."
    )
    trusting = replace(results, runs=[replace(r, beliefs={RIGHT: [0] * 20, WRONG: [0] * 20}) for r in results.runs])
    assert suspect_sentence(trusting, noisy).endswith("None is held for wrong.")


def test_one_seed_and_one_policy_make_a_page_too(results: Results, load: Callable[[str], Dataset]) -> None:
    alone = replace(results, runs=[r for r in results.runs if r.run.seed == 0 and r.run.policy == "uniform"])
    assert "nothing to compare" in page(alone, rows(alone), load)


def test_raw_results_are_json(tmp_path: Path, results: Results) -> None:
    path = tmp_path / "results.json"
    write_results(path, results, rows(results))
    content = json.loads(path.read_text())
    assert len(content["table"]) == 14
    assert len(content["runs"]) == 28
    assert content["swap"]["changed_at"] == 14
    assert content["runs"][0]["suspects"][1]["right"] == 1 / 40
