"""The calls that the page makes, as anybody may make them."""

import httpx
import pytest

from bss_service.protocol.jobs import SeriesAnswer
from bss_service.protocol.samples import DensityAnswer, HistogramList
from tests.support.services import Service
from tests.support.simulated import report, spec, train
from trainer_client.client import SchedulerClient

SUMMARIES = {
    "series?of=validation": SeriesAnswer,
    "series?of=decisions&points=10": SeriesAnswer,
    "density": DensityAnswer,
    "histograms": HistogramList,
}


def run(client: SchedulerClient, name: str, steps: range) -> None:
    """Train a job, which is made unless it is there."""
    client.create_job(spec(name))
    train(client, spec(name), steps)


@pytest.mark.parametrize("what", SUMMARIES)
def test_a_summary_is_sent_once_for_each_state_of_its_job(
    service: Service, client: SchedulerClient, job_name: str, what: str
) -> None:
    run(client, job_name, range(14))
    url = f"{service.url}/v1/jobs/{job_name}/{what}"
    first = httpx.get(url)
    assert SUMMARIES[what].from_answer(first.content, "application/json")
    tag = first.headers["etag"]
    again = httpx.get(url, headers={"if-none-match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    run(client, job_name, range(14, 26))
    client.validation(job_name, report(26))
    changed = httpx.get(url, headers={"if-none-match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    assert changed.json() != first.json()


def test_a_summary_comes_as_a_frame_too(service: Service, client: SchedulerClient, job_name: str) -> None:
    run(client, job_name, range(14))
    url = f"{service.url}/v1/jobs/{job_name}/density"
    framed = httpx.get(url, headers={"accept": "application/vnd.bss.frame"})
    message = DensityAnswer.from_frame(framed.content)
    assert message.counts.tolist() == httpx.get(url).json()["counts"]
    assert framed.headers["etag"] != httpx.get(url).headers["etag"]


@pytest.mark.parametrize("order", ["loss", "draws"])
def test_pages_of_samples_are_together_the_whole_list(
    service: Service, client: SchedulerClient, job_name: str, order: str
) -> None:
    run(client, job_name, range(14))
    url = f"{service.url}/v1/jobs/{job_name}/samples"
    whole = httpx.get(url, params={"order": order, "limit": 100}).json()
    parts = [httpx.get(url, params={"order": order, "limit": 20, "start": s}).json() for s in (0, 20, 40, 60)]
    assert [row for part in parts for row in part["samples"]] == whole["samples"]
    assert len(whole["samples"]) == whole["known"] > 40
    assert parts[3]["samples"] == []


def test_whoever_asked_lately_is_heard_of(service: Service, client: SchedulerClient, job_name: str) -> None:
    client.create_job(spec(job_name))
    assert job_name not in httpx.get(f"{service.url}/v1/jobs").json()["heard"]
    run(client, job_name, range(3))
    assert 0 <= httpx.get(f"{service.url}/v1/jobs").json()["heard"][job_name] < 60


def test_the_pace_is_told(service: Service, client: SchedulerClient, job_name: str) -> None:
    run(client, job_name, range(14))
    told = SeriesAnswer.from_answer(
        httpx.get(f"{service.url}/v1/jobs/{job_name}/series?of=pace").content, "application/json"
    )
    assert told.unit == "s"
    assert told.series[0].name == "speed"
    assert told.series[0].values.max() > 0


def test_on_loopback_without_tokens_anybody_may_do_all(service: Service) -> None:
    assert httpx.get(f"{service.url}/v1/access").json() == {"scope": "admin"}
