"""What a trainer lets people see of its samples."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.support.services import Service
from tests.support.simulated import spec
from tests.support.simulated import train as simulate
from trainer_client.sampler import ScheduledBatchSampler
from trainer_client.samples.descriptions import SIDE, messages, orders


def picture(kind: str, size: tuple[int, int], mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, "red").save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "size"), [("PNG", (300, 100)), ("JPEG", (20, 60))])
def test_a_picture_keeps_its_proportions_on_white(kind: str, size: tuple[int, int]) -> None:
    (message,) = messages(lambda index: picture(kind, size), [7])
    assert message.index.tolist() == [7]
    assert message.pictures is not None
    assert message.pictures.shape == (1, SIDE, SIDE, 3)
    red = message.pictures[0, :, :, 1] < 128
    width, height = red.any(axis=0).sum(), red.any(axis=1).sum()
    assert width / height == pytest.approx(size[0] / size[1], rel=0.1)
    assert red[SIDE // 2, SIDE // 2]


def test_long_texts_are_cut_and_many_samples_go_in_several_messages() -> None:
    sent = list(messages(lambda index: "x" * 2000 if index else "short", range(600)))
    assert [len(message.index) for message in sent] == [256, 256, 88]
    assert {len(text) for message in sent for text in message.texts or []} == {5, 1000}


@pytest.mark.parametrize(
    ("shown", "error", "said"),
    [
        (3, TypeError, "sample 4 must be described by str or bytes, got int"),
        (b"<svg onload='alert(1)'/>", ValueError, "sample 4 must be described by text, a PNG or a JPEG file"),
        (picture("GIF", (4, 4)), ValueError, "sample 4 must be described by text, a PNG or a JPEG file"),
    ],
)
def test_what_is_neither_is_refused_by_its_sample(shown: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        list(messages(lambda index: shown, [4]))  # type: ignore[arg-type,return-value]


def test_the_samples_of_highest_loss_are_described_where_there_is_no_evidence(service: Service, job_name: str) -> None:
    job = spec(job_name)
    asked: list[int] = []

    def show(index: int) -> str:
        asked.append(index)
        return f"sample {index}"

    with service.client() as client:
        client.create_job(job)
        simulate(client, job, range(14))
        with ScheduledBatchSampler(job, service.url, if_exists="resume") as sampler:
            next(iter(sampler))
            sampler.describe(show, samples=5)
        highest = [row.index for row in client.samples(job_name, order="loss", limit=5).samples]
    assert asked == highest
    assert len(asked) == 5
    assert orders(job) == ("loss",)
    assert np.unique(asked).size == 5
