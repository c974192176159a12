"""Ranking, gallery and panels."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from demo.page.canvas import panel, spread, style, to_picture
from demo.page.gallery import cards, image_bytes, png_uri
from demo.plan import NOISY
from demo.ranking import least_and_most, share, wrong_share_by_decile
from demo.results import Results
from trainer_client.reference.data import Dataset, corrupt


def test_the_ends_of_the_ranking_leave_out_what_has_no_score() -> None:
    assert least_and_most([0.3, None, -0.5, 0.9], 2) == ([2, 0], [3, 0])


def test_a_share_of_nothing_is_zero() -> None:
    assert share([]) == 0
    assert share([True, False, False, True]) == 0.5


def test_the_wrong_labels_of_each_tenth(results: Results) -> None:
    result = results.of(NOISY, "balance")[0]  # scores ascend, the first ten labels are wrong, the first has no score
    assert wrong_share_by_decile(result) == pytest.approx([1, 1, 1 / 4, 0, 0, 0, 0, 0, 0, 0])


def test_pictures_come_back_as_they_were_drawn(dataset: Dataset) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 4, 4))
    pixels[0], pixels[1] = 0, 255
    pictures = image_bytes(dataset)
    assert pictures is not None
    assert np.array_equal(pictures, pixels.transpose(0, 2, 3, 1))


def test_a_data_uri_holds_the_picture() -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    header, data = png_uri(picture).split(",")
    assert header == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), picture)


def test_a_card_tells_a_wrong_label_from_a_right_one(results: Results, dataset: Dataset) -> None:
    result = results.of(NOISY, "balance")[0]
    noisy = corrupt(dataset, noisy_labels=0.3, seed=result.run.seed).dataset
    wrong = (noisy.labels != dataset.labels)[dataset.indices("train")]
    assert [card.is_wrong for card in cards(result, dataset, range(40))] == wrong.tolist()


def test_labels_that_would_overlap_move_apart() -> None:
    places = spread([0.5, 0.52, 0.1], gap=0.1, low=0, high=1)
    assert sorted(places)[0] == pytest.approx(0.1)
    assert places[1] - places[0] == pytest.approx(0.1)


def test_labels_stay_within_the_axes() -> None:
    places = spread([0.99, 1.0, 0.98], gap=0.2, low=0, high=1)
    assert max(places) <= 1
    assert min(np.diff(sorted(places))) >= 0.2 - 1e-9


def test_a_panel_takes_colours_and_font_from_the_page() -> None:
    with style():
        figure, axes = panel(2.0)
        axes.plot([0, 1], [0, 1], color="#004488")
        axes.set_title("<b>$x$ & y</b>")
        svg = to_picture(figure, 'a "title"').svg
    assert svg.startswith('<svg viewBox="0 0 266.4 144" role="img" aria-label="a &quot;title&quot;">')
    assert "var(--balance)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg.replace("#m", ""))
    assert "DejaVu" not in svg
    assert "&lt;b&gt;$x$ &amp; y&lt;/b&gt;" in svg
