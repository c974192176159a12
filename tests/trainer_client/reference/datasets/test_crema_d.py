"""CREMA-D in each layout in which it is found, whole and damaged, and a step of training on it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from typer.testing import CliRunner, Result

from bss_cli.commands import app
from tests.trainer_client.reference.datasets import making
from trainer_client import JobSpec, PolicySpec, ScheduledBatchSampler, SchedulerClient, WithIndex, measure
from trainer_client.reference.datasets import SETS, IncompleteError, catalogue, read_set
from trainer_client.reference.datasets.annotations import UnknownLayoutError
from trainer_client.reference.datasets.media import Decoding, LogMel, Pictures
from trainer_client.reference.datasets.reading import Published
from trainer_client.reference.datasets.samples import MediaDataset

TRAIN = [f"{actor}_IOM_{code}_XX" for actor in (1001, 1002, 1003, 1004) for code in ("NEU", "HAP", "SAD")]
TEST = [f"{actor}_DFA_{code}_XX" for actor in (1001, 1002) for code in ("ANG", "FEA")]
WORDS = {"NEU": "Neutral", "HAP": "Happy", "SAD": "Sad", "ANG": "Anger", "FEA": "Fear"}


def code(clip: str) -> str:
    return clip.split("_")[2]


def codes(root: Path, folder: str = "", mark: str = "", end: str = "\n") -> None:
    for part, clips in (("train", TRAIN), ("test", TEST)):
        text = mark + "".join(f"{clip},{code(clip)}{end}" for clip in clips)
        making.write(root / folder / f"{part}.csv", text)


def plain(root: Path) -> None:
    codes(root)
    for clip in TRAIN + TEST:
        making.recording(root / "AudioWAV" / f"{clip}.wav")
        making.frames(root / "Image-01-FPS" / clip)


def marked(root: Path) -> None:
    codes(root, "annotations", mark="\ufeff", end="\r\n")
    for clip in TRAIN + TEST:
        making.recording(root / "Audio" / f"{clip}.wav")
        making.frames(root / "Image-01-FPS" / clip, ["1.jpg", "10.jpg", "2.jpg"])


def words(root: Path) -> None:
    for part, clips in (("train", TRAIN), ("test", TEST)):
        making.write(root / f"my_{part}_cre.txt", "".join(f"{clip}.flv {WORDS[code(clip)]}\n" for clip in clips))
        for clip in clips:
            making.features(root / "audio" / f"{part}_fbank" / f"{clip}.npy")
            making.frames(root / "visual" / f"{part}_imgs" / "Image-01-FPS" / clip)


def tensors(root: Path) -> None:
    codes(root)
    (root / "audio").mkdir()
    for clip in TRAIN + TEST:
        torch.save(torch.ones(4, 3), root / "audio" / f"{clip}.pt")
        making.frames(root / "Image-01-FPS" / clip)


def films(root: Path) -> None:
    codes(root, "data/CREMAD")
    for clip in TRAIN + TEST:
        making.film(root / "VideoFlash" / f"{clip}.flv", length=3, sound=True)


LAYOUTS = {"plain": plain, "marked": marked, "words": words, "tensors": tensors, "films": films}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    plain(tmp_path)
    return tmp_path


@pytest.fixture
def as_many_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the set that tests make were all there is."""
    made = replace(SETS["crema-d"], published=[Published("the test", len(TRAIN), 0, len(TEST))])
    monkeypatch.setattr(catalogue, "SETS", {"crema-d": made})
    monkeypatch.setattr("bss_cli.research.data.SETS", {"crema-d": made})


def check(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", "check", str(root), "--set", "crema-d", *arguments])


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
def test_it_is_read_in_each_layout(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    index = read_set(tmp_path, "crema-d")
    assert index.classes == ("neutral", "happy", "sad", "fear", "disgust", "anger")
    assert index.listed() == {"train": 12, "validation": 0, "test": 4}
    assert index.counts() == {"train": 9, "validation": 3, "test": 4}
    assert {sample.key: sample.label for sample in index.samples}["1002_DFA_ANG_XX"] == 5
    assert any("another draw" in note for note in index.report.notes) == (make is words)
    media, label = MediaDataset(index, "train", Decoding(LogMel(0.2, bands=8), Pictures(2, side=16)))[0]
    assert media["audio"].shape == ((4, 3) if make in (words, tensors) else (1, 8, 21))
    assert media["video"].shape == (3, 2, 16, 16)
    assert label == 0


def test_no_actor_of_the_validation_part_is_trained_on(root: Path) -> None:
    index = read_set(root, "crema-d")
    actors = {part: {s.key[:4] for s in index.samples if s.split == part} for part in ("train", "validation")}
    assert not actors["train"] & actors["validation"]
    assert index.counts() == read_set(root, "crema-d").counts()
    held_out = {
        frozenset(s.key for s in read_set(root, "crema-d", seed=seed).samples if s.split == "validation")
        for seed in range(9)
    }
    assert len(held_out) > 1


def test_the_split_by_actors_has_each_actor_in_one_part(root: Path) -> None:
    index = read_set(root, "crema-d", split="actors")
    parts = {(s.key[:4], s.split) for s in index.samples}
    assert len(parts) == 4
    assert {part for _, part in parts} == {"train", "validation", "test"}
    with pytest.raises(ValueError, match="split of crema-d must be one of official, actors, got 'speakers'"):
        read_set(root, "crema-d", split="speakers")


def test_it_is_published_with_6698_and_744_clips() -> None:
    [published] = SETS["crema-d"].published
    assert published.counts() == {"train": 6698, "test": 744}


def test_missing_empty_and_repeated_ones_are_named_and_left_out_only_on_request(root: Path) -> None:
    (root / "AudioWAV" / f"{TRAIN[0]}.wav").unlink()
    (root / "AudioWAV" / f"{TRAIN[1]}.wav").write_bytes(b"")
    for picture in (root / "Image-01-FPS" / TRAIN[2]).iterdir():
        picture.unlink()
    with (root / "test.csv").open("a") as file:
        file.write(f"{TEST[0]},ANG\n{TRAIN[3]},HAP\n1001_XXX,ANG\n{TEST[1]},JOY\n")
    with pytest.raises(IncompleteError, match=r"1 missing: AudioWAV/1001_IOM_NEU_XX.wav") as caught:
        read_set(root, "crema-d")
    index = read_set(root, "crema-d", leave_out=True)
    assert index.report == caught.value.report
    assert index.report.missing == (f"AudioWAV/{TRAIN[0]}.wav",)
    assert index.report.broken == (
        "test.csv:7: '1001_XXX,ANG' is not a clip and its emotion",
        "test.csv:8: 'joy' is none of the 6 classes",
        f"AudioWAV/{TRAIN[1]}.wav: empty",
        f"Image-01-FPS/{TRAIN[2]}: no picture in it",
    )
    assert index.report.duplicates == (
        f"test.csv:5: {TEST[0]} as test.csv:1",
        f"test.csv:6: {TRAIN[3]} as train.csv:4, which says 'neutral', not 'happy', which says 'train', not 'test'",
    )
    assert index.listed() == {"train": 9, "validation": 0, "test": 4}


@pytest.mark.parametrize("text", [None, ""])
def test_without_a_list_for_testing_none_is_made_up(text: str | None, root: Path) -> None:
    (root / "test.csv").unlink()
    if text is not None:
        (root / "test.csv").write_text(text)
    with pytest.raises(IncompleteError, match="1 missing: a list of the test samples"):
        read_set(root, "crema-d")


def test_features_as_pickles_are_refused_by_name(root: Path) -> None:
    for path in (root / "AudioWAV").iterdir():
        path.rename(path.with_suffix(".pkl"))
    with pytest.raises(IncompleteError, match=r"pickles are not read, .* \(1001_DFA_ANG_XX.pkl, .* as .npy"):
        read_set(root, "crema-d")


def test_a_folder_without_the_lists_is_told_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UnknownLayoutError, match=r"has none of the lists of crema-d: looked for \{split\}.csv"):
        read_set(tmp_path, "crema-d")
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        read_set(tmp_path / "none", "crema-d")
    with pytest.raises(ValueError, match=r"name must be one of crema-d, .*, got 'cremad'"):
        read_set(tmp_path, "cremad")


@pytest.mark.usefixtures("as_many_published")
def test_the_check_of_a_whole_folder(root: Path) -> None:
    outcome = check(root)
    assert outcome.exit_code == 0, outcome.output
    assert "CREMA-D, layout 'codes': 9 train, 3 validation, 4 test; audio and video" in outcome.output
    assert "note: 3 samples for validation are chosen here, by actor, seed 0" in outcome.output
    assert outcome.output.endswith("\ncomplete\n")


@pytest.mark.usefixtures("as_many_published")
def test_the_check_reads_every_file_to_its_end(root: Path) -> None:
    for path in (root / "AudioWAV" / f"{TEST[0]}.wav", root / "Image-01-FPS" / TEST[1] / "frame_00002.jpg"):
        path.write_bytes(path.read_bytes()[:-20])
    assert check(root, "--quick").exit_code == 0
    outcome = check(root)
    assert outcome.exit_code == 1
    assert f"2 broken: AudioWAV/{TEST[0]}.wav: cut short: 3,224 of 3,244 bytes" in outcome.output
    assert f"Image-01-FPS/{TEST[1]}/frame_00002.jpg: " in outcome.output
    assert "counts differ: 12 train + 2 test, where the test has 12 train + 4 test" in outcome.output
    assert '"complete": false' in check(root, "--json").output


def test_the_check_of_too_few_or_another_set(root: Path) -> None:
    outcome = check(root, "--quick")
    assert outcome.exit_code == 1
    assert "counts differ: 12 train + 4 test, where lists of Peng et al., OGM-GE, CVPR 2022 has 6,698" in outcome.output
    wrong = CliRunner().invoke(app, ["data", "check", str(root), "--set", "cremad"])
    assert wrong.exit_code == 2
    assert "--set must be one of crema-d" in wrong.output


def test_the_sets_are_listed() -> None:
    outcome = CliRunner().invoke(app, ["data", "list"])
    assert all(name in outcome.output for name in SETS)


class LateFusion(torch.nn.Module):
    """A linear head on each modality, and the mean of their logits."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], classes: int) -> None:
        super().__init__()
        heads = {name: torch.nn.Linear(torch.Size(shape).numel(), classes) for name, shape in shapes.items()}
        self.heads = torch.nn.ModuleDict(heads)

    def forward(self, media: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
        unimodal = [head(media[name].flatten(1)) for name, head in self.heads.items()]
        return unimodal, torch.stack(unimodal).mean(0)


def test_a_service_schedules_steps_of_training_on_it(root: Path, client: SchedulerClient, job_name: str) -> None:
    index = read_set(root, "crema-d")
    dataset = MediaDataset(index, "train", Decoding(LogMel(0.1, bands=8), Pictures(2, side=16)))
    model = LateFusion({name: tuple(values.shape) for name, values in dataset[0][0].items()}, len(index.classes))
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    spec = JobSpec(
        name=job_name,
        samples=len(dataset),
        modalities=list(index.modalities),
        batch_size=3,
        policy=PolicySpec(name="balance"),
    )
    seen: list[Any] = []
    with ScheduledBatchSampler(spec, client) as sampler:
        for numbers, (media, labels) in DataLoader(WithIndex(dataset), batch_sampler=sampler):
            unimodal, joint = model(media)
            loss = torch.nn.functional.cross_entropy(joint, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            sampler.feedback(numbers, measure(unimodal, joint, labels, unimodal_weight=0.5))
            seen += numbers.tolist()
    assert sorted(seen) == list(range(9))
    assert client.job(job_name).steps_fed_back == 3
