"""The reference trainer on a tiny folder of each public set, by the encoders of its recipe, scheduled by a service."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bss_service.protocol.policies import PolicySpec
from tests.support.encoders import tiny_bert
from tests.support.services import Service
from tests.trainer_client.reference.datasets import making
from tests.trainer_client.reference.datasets.test_audiovisual import ave_frames, kinetics_commas, vggsound_rows
from tests.trainer_client.reference.datasets.test_crema_d import plain
from tests.trainer_client.reference.datasets.test_features import iemocap_films, mosei_npz
from tests.trainer_client.reference.datasets.test_films import gestures, ucf_frames
from tests.trainer_client.reference.datasets.test_pictures_and_texts import (
    food_titles,
    mvsa_lists,
    sarcasm_2,
    sarcasm_json,
    twitter_plain,
)
from trainer_client import ScheduledBatchSampler, SchedulerClient
from trainer_client.reference import __main__ as command
from trainer_client.reference import encoders, recipes
from trainer_client.reference.datasets import SETS
from trainer_client.reference.datasets.media import LogMel
from trainer_client.reference.model import LateFusion
from trainer_client.reference.recipes import RECIPES, read_media
from trainer_client.reference.training import Trainer, TrainingConfig, job_spec


def with_pictures(lists: Callable[[Path], None]) -> Callable[[Path], None]:
    """Of sarcasm, whose lists are made alone."""

    def make(root: Path) -> None:
        lists(root)
        for number in (11, 13, 14, 15):
            making.picture(root / "dataset_image" / f"{number}.jpg")

    return make


PAGE = (Path(__file__).parents[4] / "docs/how-to/datasets.md").read_text()
MADE: dict[str, Callable[[Path], None]] = {
    "crema-d": plain,
    "kinetics-sounds": kinetics_commas,
    "vggsound": vggsound_rows,
    "ave": ave_frames,
    "twitter2015": twitter_plain,
    "mmsd": with_pictures(sarcasm_json),
    "mmsd2": with_pictures(sarcasm_2),
    "food-101": food_titles,
    "mvsa": mvsa_lists,
    "nvgesture": gestures,
    "ucf-101": ucf_frames,
    "cmu-mosei": mosei_npz,
    "iemocap": iemocap_films,
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"bert:{tiny_bert(tmp_path_factory.mktemp('bert'))}"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks and media of a size for tests."""
    resnets = {name: {**form, "depths": [1] * 4, "hidden_sizes": [8] * 4} for name, form in encoders.RESNETS.items()}
    monkeypatch.setattr(encoders, "RESNETS", resnets)
    monkeypatch.setattr(encoders, "STEM", 8)
    monkeypatch.setattr(encoders, "FILM_STAGES", (4, 4, 4, 4))
    monkeypatch.setattr(recipes, "LogMel", lambda seconds: LogMel(0.2, bands=16))
    sides = {name: 64 if name == "nvgesture" else 16 for name in RECIPES}  # films are even
    made = {name: replace(own, frames=2, side=sides[name]) for name, own in RECIPES.items()}
    monkeypatch.setattr(recipes, "RECIPES", made)


def test_each_set_has_a_recipe() -> None:
    assert set(RECIPES) == set(MADE) == set(SETS)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", MADE)
def test_a_service_schedules_training_on_it(
    name: str, bert: str, tmp_path: Path, client: SchedulerClient, job_name: str
) -> None:
    MADE[name](tmp_path)
    read = "text" in RECIPES[name].encoders and name != "cmu-mosei"
    data, chosen = read_media(name, tmp_path, {"text": bert, **random_pictures(name)} if read else {})
    spec = job_spec(job_name, data, batch_size=2, epochs=1, policy=PolicySpec(name="balance"))
    usual = RECIPES[name].usual
    config = TrainingConfig(encoders=chosen, unimodal_weight=usual.unimodal_weight, logits=usual.logits)
    with ScheduledBatchSampler(spec, client) as sampler:
        trainer = Trainer(data, sampler, config)
        before = {part: [*map(torch.clone, own.parameters())] for part, own in parts(trainer.model).items()}
        trainer.train(lambda step: trainer.stop())
    assert list(trainer.model.encoders) == list(data.modalities) == list(chosen)
    for part, own in parts(trainer.model).items():
        assert not all(map(torch.equal, own.parameters(), before[part])), part
    assert client.job(job_name).steps_fed_back == 1


@pytest.mark.usefixtures("small")
def test_the_command_of_the_page_trains_on_crema_d_to_the_end_and_tests(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain(tmp_path)
    [written] = re.findall(r"^python -m (trainer_client.reference --data crema-d:.*)$", PAGE, re.MULTILINE)
    there = {"data/CREMA-D": str(tmp_path), "crema-0.pt": str(tmp_path / "crema-0.pt")}
    smaller = [
        "--epochs",
        "1",
        "--split",
        "actors",
        "--workers",
        "0",
        "--batch-size",
        "3",
        "--device",
        "cpu",
        "--url",
        service.url,
    ]
    arguments = [*shlex.split(re.sub("|".join(there), lambda found: there[found[0]], written)), *smaller]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(command, "RECIPES", recipes.RECIPES)
    assert command.main() == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["test_modalities"]) == {"audio", "video"}
    assert told["extra_forward_samples"] == 0
    assert (tmp_path / "crema-0.pt").exists()
    monkeypatch.setattr(sys, "argv", [*arguments, "--noisy-labels", "0.4"])
    assert command.main() == 1


def random_pictures(name: str) -> dict[str, str]:
    """Where the recipe has weights that are fetched."""
    return {"image": "resnet50"} if "image" in RECIPES[name].encoders else {}


def parts(model: LateFusion) -> dict[str, nn.Module]:
    """All encoders and heads, which one step trains."""
    encoders, heads = (dict(parts.named_children()) for parts in (model.encoders, model.heads))
    return {**{f"encoder of {name}": own for name, own in encoders.items()}, **heads, "joint": model.joint}
