"""Films alone, seen in more than one way: NVGesture (colour and depth) and UCF-101 (frames and flow)."""

import re
from pathlib import Path
from typing import Final

from .annotations import Annotations, Entry, Place, lines, lists_of, split_lines, text_of
from .audiovisual import film
from .folder import Features, Flow, Medium, Video
from .reading import Published, Source

GESTURES: Final = 25
SENSOR: Final = re.compile(r"(depth|color):(\w+):(\d+):(\d+)")


def _sensor(name: str) -> Place:
    """A film of one of the sensors, from the frame where the gesture starts to where it ends."""

    def medium(path: Path, entry: Entry) -> Medium:
        return Video(path, int(str(entry.fields[f"{name}_first"])), int(str(entry.fields[f"{name}_last"])))

    return Place(f"{{folder}}/{{{name}}}.avi", medium)


def flow_array(path: Path, entry: Entry) -> Medium:
    """Optical flow that somebody computed."""
    return Features(path)


def nvgesture(root: Path, split: str) -> Annotations:
    """`path:./Video_data/class_01/subject13_r0 depth:sk_depth:138:218 color:sk_color:140:220 label:1`."""
    patterns = [f"nvgesture_{{split}}_correct{rest}.lst" for rest in ("_cvpr2016_v2", "_v2", "_cvpr2016", "")]
    lists = lists_of("nvgesture", root, patterns)
    found = Annotations("lst", classes=tuple(f"gesture {number}" for number in range(1, GESTURES + 1)))
    for part, path in lists.items():
        for row, (place, line) in enumerate(lines(path)):
            folder = re.search(r"path:(\S+)", line)
            label = re.search(r"label:(\d+)", line)
            sensors = {name: (file, first, last) for name, file, first, last in SENSOR.findall(line)}
            if folder is None or label is None or len(sensors) < 2:
                found.broken.append(f"{place}: {line!r} is not path, depth, color and label")
                continue
            fields: dict[str, object] = {"folder": folder[1].removeprefix("./"), "row": row}
            for name, (file, first, last) in sensors.items():
                fields |= {name: file, f"{name}_first": first, f"{name}_last": last}
            subject = Path(folder[1]).name.partition("_")[0]
            found.entries.append(Entry(folder[1], part, f"gesture {label[1]}", subject, place, fields))
    return found


NVGESTURE: Final = Source(
    title="NVGesture: gestures of a hand in a car, colour and depth",
    read=nvgesture,
    places={
        "color": [_sensor("color")],
        "depth": [_sensor("depth")],
        "flow": [
            Place(f"{folder}/{{row}}.npy", flow_array) for folder in ("flow/{split}", "{split}_flow", "flow_{split}")
        ],
    },
    published=[Published("Molchanov et al., CVPR 2016", 1050, 0, 482)],
    group="subject",
    optional=frozenset({"flow"}),
)


def ucf101(root: Path, split: str) -> Annotations:
    """`classInd.txt`, and lists `Class/v_Class_g08_c01.avi 1`, the number or none; `official` is the first of three."""
    number = {"official": "01", "official-2": "02", "official-3": "03"}[split]
    patterns = [
        f"{folder}{{split}}list{zero}{number}.txt"
        for folder in ("", "ucfTrainTestlist/", "data/UCF/")
        for zero in ("", "0")
    ]
    lists = lists_of("ucf-101", root, patterns)
    found = Annotations("lists", classes=_class_names(next(iter(lists.values())).parent / "classInd.txt"))
    for part, place, line in split_lines(lists):
        match = re.fullmatch(r"(\w+)/(v_\w+_(g\d+)_c\d+)(?:\.avi)?(?:\s+(\d+))?", line)
        if match is None:
            found.broken.append(f"{place}: {line!r} is not a class and its film")
            continue
        label, name, group, told = match.groups()
        if told is not None and found.classes[int(told) - 1 : int(told)] != (label,):
            found.broken.append(f"{place}: {told} is not the number of {label} in classInd.txt")
            continue
        entry = Entry(name, part, label, f"{label}_{group}", place, {"label": label, "id": name})
        found.entries.append(entry)
    return found


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise FileNotFoundError(f"cannot read {path}: there is no such file, and the classes stand in it")
    return tuple(line.split()[-1] for line in text_of(path).splitlines() if line.strip())


def flow_pictures(path: Path, entry: Entry) -> Medium:
    """The folders of u and v that lie beside each other."""
    return Flow(path, path.parents[1] / "v" / path.name)


UCF101: Final = Source(
    title="UCF-101: actions, frames and optical flow",
    read=ucf101,
    places={
        "video": [
            *(Place(f"{folder}/{{id}}", film) for folder in ("jpegs_256", "rgb", "frames")),
            *(Place(f"{folder}{{label}}/{{id}}.avi", film) for folder in ("UCF-101/", "videos/", "")),
        ],
        "flow": [Place(f"{folder}/u/{{id}}", flow_pictures) for folder in ("tvl1_flow", "flow")],
    },
    published=[
        Published("Soomro et al., 2012, split 1", 9_537, 0, 3_783),
        Published("Soomro et al., 2012, split 2", 9_586, 0, 3_734),
        Published("Soomro et al., 2012, split 3", 9_624, 0, 3_696),
    ],
    group="group of clips",
    optional=frozenset({"flow"}),
    official=("official", "official-2", "official-3"),
)
