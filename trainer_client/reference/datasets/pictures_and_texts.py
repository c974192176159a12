"""Pictures with texts: Twitter2015, the two sarcasm sets MMSD and MMSD2.0, UPMC Food-101, MVSA."""

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from .annotations import (
    Annotations,
    Entry,
    Place,
    columns,
    csv_rows,
    first_file,
    json_records,
    lines,
    lists_of,
    split_files,
    split_lines,
)
from .folder import Image, Medium, Text
from .reading import Published, Source

SENTIMENTS: Final = ("negative", "neutral", "positive")
SARCASM: Final = ("not sarcastic", "sarcastic")
TELLING: Final = frozenset(
    ["sarcasm", "sarcastic", "reposting", "joke", "jokes", "humor", "humour", "irony", "ironic", "exgag", "<url>"]
)
"""Words by which Cai et al. (ACL 2019) left out tweets of the training list, since they tell the label."""


def image(path: Path, entry: Entry) -> Medium:
    """A picture."""
    return Image(path)


def twitter2015(root: Path, split: str) -> Annotations:
    """Tab-separated `index, #1 Label, #2 ImageID, #3 String, #3 String`, or `Label, ImageID, String` in any order."""
    patterns = [
        f"{folder}{{split}}{rest}.tsv" for folder in ("", "twitter2015/", "annotations/") for rest in ("", "_data")
    ]
    lists = lists_of("twitter2015", root, patterns)
    found = Annotations("one target a line", classes=SENTIMENTS)
    for part, path in lists.items():
        _read_tweets(part, path, found)
    return found


def _read_tweets(part: str, path: Path, found: Annotations) -> None:
    rows = ((place, line.split("\t")) for place, line in lines(path))
    _, head = next(rows, ("", []))
    header = columns(head, {"label": ["label"], "image": ["imageid"], "text": ["string"]})
    if header is None:
        raise ValueError(f"{path} must start with a header of Label, ImageID and String, got {head}")
    strings = [number for number, cell in enumerate(head) if cell.endswith("String")]
    if len(strings) < 2:
        found.layout = "texts"
    for place, cells in rows:
        if len(cells) < len(head) or cells[header["label"]].strip() not in ("0", "1", "2"):
            found.broken.append(f"{place}: {len(cells)} columns of {len(head)}, or a label other than 0 to 2")
            continue
        text, *rest = (cells[number].strip() for number in strings)
        target = rest[0] if rest else None
        name = cells[header["image"]].strip()
        found.entries.append(
            Entry(
                key=f"{name}/{target}/{text}",
                split=part,
                label=SENTIMENTS[int(cells[header["label"]])],
                group=name,
                place=place,
                fields={"id": name.removesuffix(".jpg")},
                text=Text(text, target) if target is None else Text(text.replace("$T$", target), target),
            )
        )


TWITTER2015: Final = Source(
    title="Twitter2015: sentiment towards a target, tweet and picture",
    read=twitter2015,
    places={
        "image": [Place(f"{folder}/{{id}}.jpg", image) for folder in ("twitter2015_images", "images", "image")],
    },
    published=[
        Published("Yu and Jiang, TomBERT, IJCAI 2019", 3179, 1122, 1037),
        Published("Balance-aware Sequence Sampling, IJCAI 2025", 3197, 1122, 1037),
    ],
    group="picture",
)


def mmsd(root: Path, split: str) -> Annotations:
    """Lines `['id', 'text', label]` (with a second label, by people, behind it), or JSON `{image, text, label}`."""
    patterns = [f"{folder}{{split}}{rest}.txt" for folder in ("", "text/") for rest in ("", "2")]
    lists = split_files(root, *patterns)
    if lists:
        for part in ("validation", "test"):  # those labelled by people lie beside the others
            by_people = first_file(root, *(p.format(split=n) for p in patterns[1::2] for n in _names(part)))
            if by_people is not None:
                lists[part] = by_people
        return _of_lines(lists)
    as_json = ["text_json_clean/{split}.json", "{split}.json", "annotations/{split}.json"]
    return _of_json("mmsd", root, as_json, ("image", "image_id"))


def mmsd2(root: Path, split: str) -> Annotations:
    """JSON `{image_id, text, label}`."""
    return _of_json("mmsd2", root, ["text_json_final/{split}.json", "{split}.json"], ("image_id", "image"))


def _names(part: str) -> Sequence[str]:
    return ("valid", "val", "dev") if part == "validation" else (part,)


def _of_lines(lists: dict[str, Path]) -> Annotations:
    found = Annotations("lists", classes=SARCASM)
    telling = 0
    for part, place, line in split_lines(lists):
        record = _literal(line)
        labels = record[2:] if isinstance(record, list) else []
        if len(labels) not in (1, 2) or labels[-1] not in (0, 1):
            found.broken.append(f"{place}: {line[:40]!r} is not a list of picture, text and label")
        elif part == "train" and not TELLING.isdisjoint(str(record[1]).split()):
            telling += 1
        else:
            found.entries.append(_post(str(record[0]), str(record[1]), int(labels[-1]), part, place))
    if telling:
        found.notes.append(f"{telling:,} training tweets that name sarcasm are left out, as Cai et al. (ACL 2019) do")
    return found


def _literal(line: str) -> Any:
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _of_json(name: str, root: Path, patterns: Sequence[str], id_fields: Sequence[str]) -> Annotations:
    lists = lists_of(name, root, patterns)
    found = Annotations("json", classes=SARCASM)
    for part, path in lists.items():
        for number, record in enumerate(json_records(path)):
            place = f"{path.name}[{number}]"
            known = record if isinstance(record, dict) else {}
            picture = next((known[field] for field in id_fields if field in known), None)
            if picture is None or "text" not in known or str(known.get("label")) not in ("0", "1"):
                found.broken.append(f"{place}: it must have {id_fields[0]}, text and a label of 0 or 1")
                continue
            found.entries.append(_post(str(picture), str(known["text"]), int(known["label"]), part, place))
    return found


def _post(picture: str, text: str, label: int, part: str, place: str) -> Entry:
    name = Path(picture).name.removesuffix(".jpg")
    return Entry(name, part, SARCASM[label], name, place, {"id": name}, Text(text))


MMSD: Final = Source(
    title="MMSD: sarcasm, tweet and picture",
    read=mmsd,
    places={"image": [Place(f"{folder}/{{id}}.jpg", image) for folder in ("dataset_image", "images", "image")]},
    published=[Published("Cai et al., ACL 2019", 19_816, 2_410, 2_409)],
    group="picture",
)
MMSD2: Final = replace(
    MMSD,
    title="MMSD2.0: sarcasm without spurious cues, tweet and picture",
    read=mmsd2,
    published=[Published("Qin et al., Findings of ACL 2023", 19_816, 2_410, 2_409)],
)


def food101(root: Path, split: str) -> Annotations:
    """`texts/{split}_titles.csv` with the columns `text`, `label` and `Image_path`, or picture, text and label bare."""
    patterns = ["texts/{split}_titles.csv", "{split}_titles.csv"]
    lists = lists_of("food-101", root, patterns)
    found = Annotations("bare titles")
    for part, path in lists.items():
        header = {"image": 0, "text": 1, "label": 2}
        for place, cells in csv_rows(path):
            named = columns(cells, {"text": ["text"], "label": ["label"], "image": ["image_path"]})
            if named is not None:
                header, found.layout = named, "titles"
            elif len(cells) <= max(header.values()):
                found.broken.append(f"{place}: {','.join(cells)[:40]!r} is not picture, text and label")
            else:
                name, label = Path(cells[header["image"]]).name, cells[header["label"]]
                fields = {"file": name, "label": label}
                found.entries.append(Entry(name, part, label, name, place, fields, Text(cells[header["text"]])))
    return found.with_classes_seen()


FOOD101: Final = Source(
    title="Food-101: dishes, picture and title of the recipe (UPMC)",
    read=food101,
    places={"image": [Place("images/{split}/{label}/{file}", image), Place("images/{label}/{file}", image)]},
    published=[Published("Lee et al., missing-aware prompts, CVPR 2023", 67_972, 0, 22_716, about=True)],
    group="picture",
)


def mvsa(root: Path, split: str) -> Annotations:
    """`labelResultAll.txt` of annotators' pairs, or lists `477.jpg positive`."""
    whole = first_file(root, "labelResultAll.txt", "MVSA_Single/labelResultAll.txt", "MVSA/labelResultAll.txt")
    if whole is not None:
        return _by_annotators(root, whole)
    patterns = ["my_{split}_mvsa.txt", "{split}.txt"]
    lists = lists_of("mvsa", root, patterns, also=["labelResultAll.txt"])
    found = Annotations("lists", classes=SENTIMENTS)
    for part, place, line in split_lines(lists):
        cells = line.split()
        if len(cells) != 2:
            found.broken.append(f"{place}: {line!r} is not a picture and its sentiment")
            continue
        _add_pair(root, cells[0].removesuffix(".jpg"), cells[1], part, place, found)
    return found


def _by_annotators(root: Path, path: Path) -> Annotations:
    found = Annotations("annotators", classes=SENTIMENTS, is_split=False)
    contrary = 0
    for place, line in lines(path):
        name, *pairs = line.split("\t")
        votes = [pair.strip().split(",") for pair in pairs]
        if not name.isdecimal():
            continue  # the header
        if not votes or any(len(vote) != 2 or not {*vote} <= {*SENTIMENTS} for vote in votes):
            found.broken.append(f"{place}: {line!r} is not a number and pairs of sentiments")
            continue
        label = agreed(_majority(vote[0] for vote in votes), _majority(vote[1] for vote in votes))
        if label is None:
            contrary += 1
        else:
            _add_pair(path.parent, name, label, "train", place, found)
    if contrary:
        found.notes.append(
            f"{contrary:,} pairs of which text and picture are contrary, or annotators don't agree, are left out, "
            "as Xu and Mao (CIKM 2017) do"
        )
    return found


def _majority(votes: Iterator[str]) -> str | None:
    counted = Counter(votes).most_common(2)
    return None if len(counted) > 1 and counted[0][1] == counted[1][1] else counted[0][0]


def agreed(text: str | None, picture: str | None) -> str | None:
    """The sentiment of a pair: the same of both, or that of the one that is not neutral; None: there is none."""
    if text is None or picture is None or {text, picture} == {"positive", "negative"}:
        return None
    return picture if text == "neutral" else text


def _add_pair(folder: Path, name: str, label: str, part: str, place: str, found: Annotations) -> None:
    candidates = [folder / below / f"{name}.txt" for below in ("data", "text")]
    path = next((path for path in candidates if path.is_file()), candidates[0])
    if not path.is_file():
        found.missing.append(path)
        return
    text = path.read_bytes().decode("utf-8-sig", errors="replace").strip()
    found.entries.append(Entry(name, part, label, name, place, {"id": name}, Text(text)))


MVSA: Final = Source(
    title="MVSA: sentiment, tweet and picture",
    read=mvsa,
    places={
        "image": [
            Place(f"{folder}/{{id}}.jpg", image)
            for folder in ("data", "MVSA_Single/data", "MVSA/data", "visual/{split}_imgs", "images")
        ]
    },
    published=[
        Published("MVSA-Single, Xu and Mao, CIKM 2017", 4_511, 0, 0),
        Published("MVSA-Multiple, Xu and Mao, CIKM 2017", 17_024, 0, 0),
        Published("lists of Zhang et al., MLA, CVPR 2024", 1_555, 0, 519),
    ],
    group="pair",
)
