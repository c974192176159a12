"""IEMOCAP: emotions of actors in dialogues, as film, voice and words."""

import re
from pathlib import Path
from typing import Final

from .annotations import Annotations, Entry, Place, lists_of, split_lines
from .audiovisual import film, sound
from .folder import Text
from .reading import Published, Source

EMOTIONS: Final = ("Angry", "Happy", "Neutral", "Sad")
SEPARATOR: Final = "[split|sign]"


def iemocap(root: Path, split: str) -> Annotations:
    """`Ses04F_script02_2_F034.mp4 [split|sign] Oh, right. [split|sign] Angry`."""
    patterns = ["my_{split}_iemo.txt", "data/my_{split}_iemo.txt", "{split}.txt"]
    lists = lists_of("iemocap", root, patterns)
    found = Annotations("lines", classes=EMOTIONS)
    for part, place, line in split_lines(lists):
        cells = [cell.strip() for cell in line.split(SEPARATOR)]
        match = re.fullmatch(r"((Ses\d\d[FM]_\w+)_[FM]\w+?)(\.mp4)?", cells[0])
        if match is None or len(cells) != 3:
            found.broken.append(f"{place}: {line[:60]!r} is not a clip, its text and its emotion")
            continue
        found.entries.append(Entry(match[1], part, cells[2], match[2], place, {"id": match[1]}, Text(cells[1])))
    return found


IEMOCAP: Final = Source(
    title="IEMOCAP: emotions in dialogues, film, voice and words",
    read=iemocap,
    places={
        "audio": [
            *(Place(f"{folder}/{{id}}.wav", sound) for folder in ("subaudio", "audio/{split}", "audio")),
            *(Place(f"{folder}/{{id}}.npy", sound) for folder in ("audio/{split}_fbank", "audio")),
            Place("subvideo/{id}.mp4", sound),
        ],
        "video": [
            *(Place(f"visual/{{split}}_imgs{folder}/{{id}}", film) for folder in ("/Image-01-FPS", "")),
            Place("subvideo/{id}.mp4", film),
        ],
    },
    published=[
        Published("lists of Zhang et al., MLA, CVPR 2024", 3_318, 0, 1_107),
        Published("the same with the fifth of its 5,531 utterances for development", 3_318, 1_106, 1_107),
    ],
    group="dialogue",
    regrouped={"sessions": lambda entry: entry.key[: len("Ses01")]},
    clip_seconds=5.0,
)
