"""Gallery and panels."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from demo.page.canvas import panel, spread, style, to_picture
from demo.page.gallery import cards, image_bytes, png_uri
from demo.plan import CONDITIONS
from demo.results import Results
from trainer_client.reference.data import Dataset


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
    result = results.of(CONDITIONS[0], "evidence")[0]
    shown = cards(result, dataset, result.suspects)
    assert [card.is_wrong for card in shown] == [suspect.is_wrong for suspect in result.suspects]
    assert 0 < result.found == sum(card.is_wrong for card in shown) < len(shown)
    assert all(card.likeliest == card.true for card in shown if card.is_wrong)  # there are two classes


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
    assert "var(--evidence)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg.replace("#m", ""))
    assert "DejaVu" not in svg
    assert "&lt;b&gt;$x$ &amp; y&lt;/b&gt;" in svg
