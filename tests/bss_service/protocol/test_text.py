"""What strangers write, on terminals and in spreadsheets."""

import csv
import io
import json
import sys

import pytest

from bss_service.protocol.samples import SampleEvidence, SampleList, SampleRow, csv_of
from bss_service.protocol.text import cell, printable, printable_json

MOVING = [
    *map(chr, range(0x20)),  # C0
    *map(chr, range(0x7F, 0xA0)),  # DEL and C1
    *map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C]),  # reading direction
    *map(chr, [0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0xAD, 0x2028, 0x2029, 0xE0041, 0xD800]),  # no shape
]


@pytest.mark.parametrize("character", MOVING, ids=lambda c: f"U+{ord(c):04X}")
def test_what_moves_a_cursor_turns_text_or_has_no_shape_is_escaped(character: str) -> None:
    text = f"a{character}b"
    assert printable(text).isprintable()
    assert printable(text) == f"a{character.encode('unicode_escape').decode()}b"
    document = json.dumps({"name": text}, ensure_ascii=False)
    assert printable_json(document).isprintable()
    assert json.loads(printable_json(document)) == {"name": text}


def test_of_all_characters_none_comes_through_that_is_not_printable() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert printable(everything).isprintable()
    assert printable_json(json.dumps(everything, ensure_ascii=False)).isprintable()


@pytest.mark.parametrize("text", ["Ärger mit γ", "日本", "a b", "", "😀"])
def test_what_has_a_shape_stays_as_it_is(text: str) -> None:
    assert printable(text) == printable_json(text) == cell(text) == text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "＝1", '=HYPERLINK("x")'])
def test_no_cell_is_a_formula(text: str) -> None:
    assert cell(text)[0] == "'"
    assert cell(text).isprintable()


def test_a_list_of_samples_as_csv_holds_names_as_text_and_numbers_as_numbers() -> None:
    known = SampleEvidence(
        right=0.5, rival=0.25, pair=1, label=0, likeliest=1, wrong_modality={"=a": 0.5}, predicted={"=a": 1}
    )
    rows = [SampleRow(index=k, evidence=known, loss=-1.5, draws=2, last_measured=3) for k in range(2)]
    listed = SampleList(order="label", step=3, known=2, samples=rows)
    lines = list(csv.DictReader(io.StringIO(csv_of(listed, ["=cmd|' /C calc'!A0", "b\x1b[2J\r\n"]))))
    assert [line["name"] for line in lines] == ["'=cmd|' /C calc'!A0", "b\\x1b[2J\\r\\n"]
    assert [line["loss"] for line in lines] == ["-1.5", "-1.5"]
    assert "predicted_=a" in lines[0]
