"""Films of which picture and sound are two modalities: CREMA-D, Kinetics-Sounds, VGGSound, AVE."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from .annotations import (
    Annotations,
    Entry,
    Place,
    columns,
    csv_rows,
    first_file,
    lines,
    lists_of,
    split_files,
    split_lines,
    text_of,
)
from .folder import Audio, Features, Frames, Medium, Video, named
from .reading import Published, Source

EMOTIONS: Final = {
    "NEU": "neutral",
    "HAP": "happy",
    "SAD": "sad",
    "FEA": "fear",
    "DIS": "disgust",
    "ANG": "anger",
}
"""Codes of CREMA-D, in the order of the lists' `stat.csv`, and what their words are."""

ID_COLUMNS: Final = ("youtube_id", "ytid", "video_id", "id", "video")
LABEL_COLUMNS: Final = ("label", "class")
YOUTUBE_ID: Final = 11  # characters; what follows names a cut of the film


def sound(path: Path, entry: Entry) -> Medium:
    """A recording, or features of it that somebody computed."""
    return Features(path) if path.suffix in (".npy", ".pt") else Audio(path)


def film(path: Path, entry: Entry) -> Medium:
    """A film, or a folder of its frames."""
    return Video(path) if path.is_file() else Frames(path)


def crema_d(root: Path, split: str) -> Annotations:
    """`1088_IOM_NEU_XX,NEU`, or `1085_IWL_SAD_XX.flv Sad`."""
    patterns = [f"{folder}{{split}}.csv" for folder in ("", "annotations/", "CREMAD/", "data/CREMAD/")]
    words = [f"{folder}my_{{split}}_cre.txt" for folder in ("", "data/")]
    found = Annotations("codes", classes=tuple(EMOTIONS.values()))
    lists = split_files(root, *patterns)
    if not lists:
        found.layout, lists = "words", lists_of("crema-d", root, words, also=patterns)
        found.notes.append("lists of words are another draw than those of codes, as long: results don't compare")
    for part, place, line in split_lines(lists):
        cells = re.split(r"[,\s]+", line.removesuffix(","))
        match = re.fullmatch(r"(\d{4}_[A-Z0-9]+_[A-Z]+_[A-Z]+)(\.flv)?", cells[0])
        if match is None or len(cells) != 2:
            found.broken.append(f"{place}: {line!r} is not a clip and its emotion")
            continue
        clip = match[1]
        label = EMOTIONS.get(cells[1], cells[1].lower())
        found.entries.append(Entry(clip, part, label, clip[:4], place, {"id": clip}))
    return found


CREMA_D: Final = Source(
    title="CREMA-D: acted emotions, face and voice",
    read=crema_d,
    places={
        "audio": [
            *(Place(f"{folder}/{{id}}.wav", sound) for folder in ("AudioWAV", "Audio", "audio")),
            *(Place(f"{folder}/{{id}}.npy", sound) for folder in ("audio/{split}_fbank", "AudioWAV", "Audio", "audio")),
            *(Place(f"{folder}/{{id}}.pt", sound) for folder in ("AudioWAV", "Audio", "audio", "fbank")),
            Place("VideoFlash/{id}.flv", sound),
        ],
        "video": [
            Place("Image-01-FPS/{id}", film),
            Place("visual/{split}_imgs/Image-01-FPS/{id}", film),
            Place("VideoFlash/{id}.flv", film),
        ],
    },
    published=[Published("lists of Peng et al., OGM-GE, CVPR 2022", 6698, 0, 744)],
    group="actor",
    regrouped={"actors": lambda entry: entry.group},
    clip_seconds=3.0,
)


def kinetics_sounds(root: Path, split: str) -> Annotations:
    """`ID,10,label`, `ID … label` or a table with the columns `youtube_id` and `label`."""
    patterns = ["my_{split}.txt", "annotations/{split}.csv", "{split}.csv", "{split}.txt"]
    lists = lists_of("kinetics-sounds", root, patterns)
    found = Annotations("lines")
    for part, path in lists.items():
        for place, clip, label in _clips(path, found):
            found.entries.append(Entry(clip, part, label, clip[:YOUTUBE_ID], place, {"id": clip}))
    found.with_classes_seen()
    if found.classes and found.classes[-1].isdecimal() and len(found.classes) < 31:
        found.classes = tuple(map(str, range(31)))
    return found


def _clips(path: Path, found: Annotations) -> Iterator[tuple[str, str, str]]:
    """Place, clip and label of each line."""
    header: dict[str, int] | None = None
    for place, line in lines(path):
        cells = next(csv.reader([line])) if "," in line else line.split()
        header = header or columns(cells, {"clip": ID_COLUMNS, "label": LABEL_COLUMNS})
        if header is not None and columns(cells, {"clip": ID_COLUMNS, "label": LABEL_COLUMNS}):
            found.layout = "table"
        elif len(cells) < 2 or (header is not None and max(header.values()) >= len(cells)):
            found.broken.append(f"{place}: {line!r} is not a clip and its label")
        elif header is not None:
            yield place, cells[header["clip"]].strip(), cells[header["label"]].strip()
        else:
            yield place, cells[0].strip(), cells[-1].strip()


KINETICS_SOUNDS: Final = Source(
    title="Kinetics-Sounds: actions that are seen and heard",
    read=kinetics_sounds,
    places={
        "audio": [
            Place("{split}_wav/{id}.wav", sound),
            Place("audio/{split}/{id}.wav", sound),
            Place("audio/{id}.wav", sound),
            Place("{split}_wav/{id}.npy", sound),
            Place("audio/{split}_fbank/{id}.npy", sound),
            Place("audio/{split}/{id}.npy", sound),
            Place("audio/{id}.npy", sound),
        ],
        "video": [
            Place("{split}_img/Image-01-FPS/{id}", film),
            Place("visual/{split}_imgs/Image-01-FPS/{id}", film),
            Place("visual/{split}/{id}", film),
            Place("visual/{id}", film),
            Place("Image-01-FPS/{id}", film),
        ],
    },
    published=[
        Published("Arandjelović and Zisserman, ICCV 2017", 15_000, 1_900, 1_900, about=True),
        Published("lists of Peng et al., OGM-GE, CVPR 2022", 14_799, 0, 2_597, about=True),
    ],
    group="video",
)


def vggsound(root: Path, split: str) -> Annotations:
    """`ytid,start,class,split`, or tables of each split beside a `label_encoding.json`."""
    whole = first_file(root, "vggsound.csv", "annotations/vggsound.csv", "data/VGGSound/vggsound.csv")
    if whole is not None:
        return _vggsound_rows(whole)
    patterns = ["{split}.csv", "annotations/{split}.csv"]
    sought = ["vggsound.csv", "annotations/vggsound.csv"]
    return _vggsound_tables(root, lists_of("vggsound", root, patterns, also=sought))


def _vggsound_rows(path: Path) -> Annotations:
    found = Annotations("one list")
    for place, cells in csv_rows(path):
        if len(cells) != 4 or not cells[1].isdecimal() or cells[3] not in ("train", "test"):
            found.broken.append(f"{place}: {','.join(cells)!r} is not film, second, class and split")
            continue
        found.entries.append(_cut(cells[0], cells[1], cells[3], cells[2], place))
    return found.with_classes_seen()


def _vggsound_tables(root: Path, lists: Mapping[str, Path]) -> Annotations:
    found = Annotations("tables")
    names = _label_names(root)
    known = {"id": ID_COLUMNS, "label": LABEL_COLUMNS}
    for part, path in lists.items():
        rows = csv_rows(path)
        _, head = next(rows, ("", []))
        header = columns(head, known)
        if header is None:
            raise ValueError(f"{path} must start with a header that has a column for film and label, got {head}")
        start = (columns(head, {"start": ("start", "start_seconds", "start_time")}) or {}).get("start")
        for place, cells in rows:
            if len(cells) != len(head) or (start is not None and not cells[start].isdecimal()):
                found.broken.append(f"{place}: {','.join(cells)!r} does not fit the header")
                continue
            label = cells[header["label"]]
            second = None if start is None else cells[start]
            found.entries.append(_cut(cells[header["id"]], second, part, names.get(label, label), place))
    return found.with_classes_seen()


def _label_names(root: Path) -> dict[str, str]:
    """The name of each numbered label, from a file that maps either to the other."""
    path = first_file(root, "label_encoding.json", "annotations/label_encoding.json")
    if path is None:
        return {}
    try:
        pairs = json.loads(text_of(path)).items()
    except (ValueError, AttributeError):
        raise ValueError(f"{path} must be a JSON object of classes and their numbers") from None
    return dict((str(a), str(b)) if str(a).isdecimal() else (str(b), str(a)) for a, b in pairs)


def _cut(film_id: str, second: str | None, part: str, label: str, place: str) -> Entry:
    name = film_id if second is None else f"{film_id}_{int(second)}"
    padded = film_id if second is None else f"{film_id}_{int(second):06d}"
    return Entry(name, part, label, film_id[:YOUTUBE_ID], place, {"name": name, "padded": padded})


VGGSOUND: Final = Source(
    title="VGGSound: what is seen making a sound",
    read=vggsound,
    places={
        "audio": [
            Place(f"{folder}/{{{name}}}{suffix}", sound)
            for suffix in (".wav", ".npy")
            for folder in ("{split}-audios/{split}-set", "audio/{split}", "{split}_wav", "audio")
            for name in ("name", "padded")
        ],
        "video": [
            Place(f"{folder}/{{{name}}}{suffix}", film)
            for folder in (
                "{split}-videos/{split}-set-img/Image-01-FPS",
                "frames/{split}/Image-01-FPS",
                "{split}_img/Image-01-FPS",
                "video/{split}",
                "video",
            )
            for name in ("name", "padded")
            for suffix in ("", ".mp4")
        ],
    },
    published=[Published("Peng et al., OGM-GE, CVPR 2022", 168_618, 0, 13_954, about=True)],
    group="video",
)


def ave(root: Path, split: str) -> Annotations:
    """`Church bell&ID&good&0&10`: class, film, quality, first and last second of the event."""
    patterns = [f"{folder}{{split}}Set.txt" for folder in ("", "AVE_Dataset/", "AVE/", "data/AVE/")]
    lists = lists_of("ave", root, patterns)
    found = Annotations("sets")
    classes, parts = defaultdict(set), defaultdict(set)
    for part, place, line in split_lines(lists):
        cells = line.split("&")
        if len(cells) != 5:
            found.broken.append(f"{place}: {line!r} is not class, film, quality, start and end")
            continue
        if cells[1] == "VideoID":
            continue
        classes[cells[1]].add(cells[0])
        parts[cells[1]].add(part)
        found.entries.append(Entry("&".join(cells[:2]), part, cells[0], cells[1], place, {"id": cells[1]}))
    for seen, where in ((classes, "class"), (parts, "split")):
        if twofold := [name for name, places in seen.items() if len(places) > 1]:
            found.notes.append(f"{len(twofold)} films are in more than one {where}, by the lists: {named(twofold)}")
    return found.with_classes_seen()


AVE: Final = Source(
    title="AVE: audio-visual events in films",
    read=ave,
    places={
        "audio": [
            *(Place(f"{folder}/{{id}}.wav", sound) for folder in ("Audio", "audio", "AVE/audio")),
            Place("AVE/audio/{split}_fbank/{id}.npy", sound),
            Place("audio/{split}_fbank/{id}.npy", sound),
            *(Place(f"{folder}/{{id}}.mp4", sound) for folder in ("AVE", "AVE_Dataset/AVE")),
        ],
        "video": [
            *(Place(f"{folder}/{{id}}", film) for folder in ("Image-01-FPS-SE", "Image-01-FPS")),
            Place("AVE/visual/{split}_imgs/Image-01-FPS/{id}", film),
            Place("visual/{split}_imgs/Image-01-FPS/{id}", film),
            *(Place(f"{folder}/{{id}}.mp4", film) for folder in ("AVE", "AVE_Dataset/AVE")),
        ],
    },
    published=[
        Published("Tian et al., ECCV 2018", 3339, 402, 402),
        Published("lists of Fan et al., DI-MML, ACM MM 2024", 3338, 402, 402),
    ],
    group="video",
)
