"""What samples show, as the store keeps it."""

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from bss_service.journal import descriptions
from bss_service.journal.descriptions import Description, png
from bss_service.journal.store import Store
from bss_service.journal.transaction import Transaction
from bss_service.protocol.samples import SampleDescriptions
from tests.support.services import Service
from tests.support.simulated import spec
from trainer_client.client import SchedulerClient
from trainer_client.errors import InvalidValueError, UnknownJobError


def test_a_picture_is_its_pixels_and_nothing_else() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
    file = png(pixels)
    with Image.open(io.BytesIO(file), formats=["PNG"]) as opened:
        assert opened.info == {}
        assert np.array_equal(np.asarray(opened), pixels)
    assert file.endswith(b"IEND\xaeB`\x82")


def test_the_earliest_told_go_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions, "MAX_DESCRIBED", 3)
    store = Store(f"sqlite:///{tmp_path}/bss.sqlite")
    for sample in (0, 1, 2, 0, 3, 4):
        told = [Description(sample, "text", f"{sample}".encode())]
        store.commit(Transaction("job", descriptions=told)).result()
        store.commit(Transaction("other", descriptions=told)).result()
    assert [row.index for row in store.descriptions("job")] == [0, 3, 4]
    store.close()


def test_they_go_with_their_job(service: Service, client: SchedulerClient, job_name: str) -> None:
    client.create_job(spec(job_name))
    client.describe(job_name, SampleDescriptions(index=[3], texts=["a dog"]))
    httpx.delete(f"{service.url}/v1/jobs/{job_name}").raise_for_status()
    with pytest.raises(UnknownJobError):
        client.describe(job_name, SampleDescriptions(index=[3], texts=["a dog"]))
    client.create_job(spec(job_name))
    assert [
        row.index for row in client.describe(job_name, SampleDescriptions(index=[4], texts=["x"])).descriptions
    ] == [4]


def test_a_later_one_takes_the_place_of_an_earlier_and_survives_a_restart(tmp_path: Path) -> None:
    with Service(tmp_path) as own:
        with own.client() as client:
            client.create_job(spec("job"))
            client.describe("job", SampleDescriptions(index=[1, 2], texts=["one", "two"]))
            pixels = np.zeros((2, 4, 4, 3), dtype=np.uint8)
            client.describe("job", SampleDescriptions(index=[2, 3], pictures=pixels))
        own.kill()
        own.start()
        with own.client() as client:
            known = client.describe("job", SampleDescriptions(index=[0], texts=["none"]))
    assert {row.index: row.kind for row in known.descriptions} == {0: "text", 1: "text", 2: "picture", 3: "picture"}


def test_a_sample_that_the_job_does_not_have_is_refused_and_nothing_kept(
    client: SchedulerClient, job_name: str
) -> None:
    client.create_job(spec(job_name, samples=50))
    with pytest.raises(InvalidValueError, match="index must be less than samples = 50, got 50"):
        client.describe(job_name, SampleDescriptions(index=[3, 50], texts=["a", "b"]))
    assert [
        row.index for row in client.describe(job_name, SampleDescriptions(index=[1], texts=["c"])).descriptions
    ] == [1]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"index": [], "texts": []}, "index must hold 1 to 256 samples that differ, got 0"),
        ({"index": [1, 1], "texts": ["a", "b"]}, "index must hold 1 to 256 samples that differ, got 2"),
        ({"index": [1]}, "texts or pictures must be given, and one of them alone"),
        ({"index": [1, 2], "texts": ["a"]}, "index must be as long as what is told, got 2 for 1"),
        ({"index": [1], "texts": ["a" * 1001]}, "at most 1000 characters"),
        ({"index": [1], "pictures": np.zeros((1, 129, 4, 3), np.uint8)}, "at most 128 × 128 pixels of 3 values"),
        ({"index": [1], "pictures": np.zeros((1, 4, 4, 4), np.uint8)}, "of 3 values, got (4, 4, 4)"),
        ({"index": [1], "pictures": np.full((1, 4, 4, 3), 256)}, "must hold uint8 values"),
    ],
)
def test_what_is_no_description_is_refused_by_name(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError) as refused:
        SampleDescriptions(**fields)
    assert said in str(refused.value)
