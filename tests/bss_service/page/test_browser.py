"""The page in Chromium, over a service with a job that a small network was trained by."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from bss_service.http.tokens import Scope, Tokens
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.samples import SampleDescriptions
from tests.support.mislabelled import WRONG
from tests.support.pages import Visit, chromium, started_browser, train, visit, walk
from tests.support.services import Service
from tests.support.simulated import report, spec
from tests.support.simulated import train as go_on
from trainer_client.client import SchedulerClient

HOSTILE: Final = "<img src=x onerror=alert(1)>"
PHONE: Final[dict[str, Any]] = {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"}
RULES_OF_LOOKS: Final = ("color-contrast", "scrollable-region-focusable")  # of axe-core's, those that a look may break
VIEWS: Final = {
    "/": "Jobs",
    "/jobs/run-1": "run-1",
    "/jobs/run-1/samples": "Suspect samples",
    "/jobs/run-1/samples?order=draws&start=25": "Suspect samples",
    "/jobs/run-1/samples/30": "Sample 30",
    "/compare?job=run-1&job=run-1-control": "Compare jobs",
    "/jobs/new": "new",
    "/jobs/new/samples": "Suspect samples",
    "/nowhere": "No such page",
}

expect.set_options(timeout=60_000)  # the machine may be busy with other tests


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two trained jobs, and one that was made and never trained."""
    chromium()
    with Service(tmp_path_factory.mktemp("trained")) as service:
        made = train(service.url, "run-1", epochs=5, swaps={3: "balance"})
        train(service.url, "run-1-control", epochs=5, policy="uniform")
        with service.client() as client:
            client.create_job(made.model_copy(update={"name": "new"}))
        yield service


@pytest.fixture
def seen(browser: Browser, trained: Service) -> Iterator[Visit]:
    """A tab in which nothing may go wrong, and from which nothing may leave for elsewhere."""
    with visit(browser, trained.url) as opened:
        yield opened
        assert opened.errors == []
        assert opened.strangers == []


def simulate(client: SchedulerClient, job: JobSpec, steps: range) -> None:
    """Train a job without a model; it is made unless it is there."""
    client.create_job(job)
    go_on(client, job, steps)


def violations(page: Page, *rules: str) -> str:
    """What axe-core finds, by all rules or by these; "" where it finds nothing."""
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    found = Axe().run(page, options=options | ({"runOnly": list(rules)} if rules else {}))
    return str(found.generate_report()) if found.violations_count else ""


def test_every_view_is_open_to_all(seen: Visit) -> None:
    for route, title in VIEWS.items():
        seen.open(route)
        expect(seen.page.get_by_role("heading", level=1)).to_have_text(title)
        assert violations(seen.page) == "", route


def test_every_view_is_whole_on_a_dark_phone(browser: Browser, trained: Service) -> None:
    with visit(browser, trained.url, **PHONE) as seen:
        for route in VIEWS:
            seen.open(route)
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390, route
            assert violations(seen.page, *RULES_OF_LOOKS) == "", route
        assert seen.errors == []
        assert seen.strangers == []


def test_five_questions_take_three_clicks_each_at_most(seen: Visit) -> None:
    answers = walk(seen, "run-1")
    assert max(clicks for clicks, _ in answers.values()) <= 3
    told = {question: text for question, (_, text) in answers.items()}
    assert "of best validation accuracy over uniform" in told["is it helping?"]
    assert told["which labels are wrong?"].split(" | ")[0].isdecimal()
    assert told["which modality is weak, since when?"].startswith("The weakest modality is video, since the report of")
    assert "times that of a plain draw among all samples" in told["why was this sample drawn?"]
    assert told["what did the swap do?"].startswith("balance v2 | 36 on")


def test_the_list_finds_jobs_and_compares_those_that_are_chosen(seen: Visit) -> None:
    seen.open()
    seen.page.get_by_label("Search").fill("RUN-")
    expect(seen.page.get_by_role("link", name="new")).to_have_count(0)
    compare = seen.page.get_by_role("button", name="Compare")
    expect(compare).to_be_disabled()
    seen.page.get_by_label("Compare run-1", exact=True).check()
    seen.page.get_by_label("Compare run-1-control").check()
    compare.click()
    expect(seen.page.get_by_role("heading", level=1)).to_have_text("Compare jobs")
    expect(seen.page.get_by_role("row", name="run-1 evidence")).to_contain_text("evidence → balance")
    expect(seen.page.locator(".uplot")).to_have_count(3)


def test_whether_it_helps_is_told_as_the_interface_tells_it(seen: Visit) -> None:
    told = httpx.get(f"{seen.url}/v1/compare?job=run-1&job=run-1-control").json()
    sentence = told["sentence"][0].upper() + told["sentence"][1:]
    seen.open("/jobs/run-1")
    expect(seen.page.get_by_text(sentence)).to_be_visible()
    seen.page.get_by_role("link", name="See both").click()
    expect(seen.page.get_by_text(sentence)).to_be_visible()
    row = seen.page.get_by_role("row", name=told["policies"][0]["policy"])
    expect(row).to_contain_text("can’t tell yet")  # of one pair
    expect(row).to_contain_text(f"{100 * told['policies'][0]['best']['mean']:+.2f}".replace("-", "−"))


def test_a_job_without_a_control_is_told_how_to_make_one_and_jobs_that_differ_why_not(
    seen: Visit, trained: Service
) -> None:
    with trained.client() as client:
        for name, samples in (("lonely", 60), ("lonelier", 70)):
            simulate(client, spec(name, samples=samples), range(3))
            client.validation(name, report(3))
    seen.open("/jobs/lonely")
    expect(seen.page.get_by_text("One run alone can’t tell.")).to_be_visible()
    expect(seen.page.get_by_text("bss control lonely")).to_be_visible()
    seen.errors.clear()
    seen.open("/compare?job=lonely&job=lonelier")
    expect(seen.page.get_by_text("'lonely' has 60, 'lonelier' has 70")).to_be_visible()
    seen.errors.clear()  # Chromium writes one for each refusal


def test_what_each_swap_did_to_each_head_is_told_in_points(seen: Visit) -> None:
    seen.open("/jobs/run-1")
    reports = httpx.get(f"{seen.url}/v1/jobs/run-1/validation").json()["reports"]
    before, after = (report["accuracy"] for report in (reports[2], reports[-1]))
    course = f"{100 * before:.1f} % → {100 * after:.1f} % ({100 * (after - before):+.2f})".replace("-", "−")
    expect(seen.page.get_by_role("row", name="balance v2 36 on 2")).to_contain_text(course)


def test_a_job_tells_which_modality_is_weak_and_since_when(seen: Visit) -> None:
    seen.open("/jobs/run-1")
    expect(seen.page.get_by_text("The weakest modality is video, since the report of step 12")).to_be_visible()
    expect(seen.page.get_by_text("Policies: evidence from step 0, balance from step 36.").first).to_be_visible()


def test_what_the_policy_saw_is_told_on_demand(seen: Visit) -> None:
    seen.open("/jobs/run-1")
    seen.page.locator("details[data-number='3'] summary").click()
    row = seen.page.get_by_role("row", name="training probability q50")
    expect(row).to_be_visible()
    expect(row.get_by_role("cell").nth(1)).not_to_have_text("0")


def test_a_report_is_shown_without_a_reload(seen: Visit, trained: Service) -> None:
    with trained.client() as client:
        simulate(client, spec("grows"), range(14))
        seen.open("/jobs/grows")
        expect(seen.page.get_by_text("at step 12").first).to_be_visible()
        simulate(client, spec("grows"), range(14, 26))
        client.validation("grows", report(26))
    expect(seen.page.get_by_text("at step 26").first).to_be_visible()
    expect(seen.page.locator("figure", has_text="Validation accuracy").get_by_role("listitem").first).to_contain_text(
        "%"
    )


def test_suspects_come_with_labels_pictures_texts_and_their_pages(seen: Visit) -> None:
    seen.open("/jobs/run-1/samples")
    rows = seen.page.get_by_role("row")
    expect(rows).to_have_count(26)
    first = int(rows.nth(1).get_by_role("link").inner_text())
    assert WRONG[first]
    expect(seen.page.get_by_role("img").first).to_be_visible()
    assert seen.page.get_by_role("img").first.evaluate("image => image.naturalWidth") == 64
    expect(seen.page.get_by_text("<b>shows</b> “it”").first).to_be_visible()
    seen.page.get_by_role("button", name="Next").click()
    expect(seen.page.get_by_text("Samples 26 to 50 of 96")).to_be_visible()
    seen.page.get_by_label("First those with the").select_option("loss")
    expect(seen.page.get_by_text("Samples 1 to 25 of 96")).to_be_visible()


def test_the_csv_is_that_of_the_interface(seen: Visit) -> None:
    seen.open("/jobs/run-1/samples?order=pair")
    with seen.page.expect_download() as started:
        seen.page.get_by_role("button", name="Download CSV").click()
    assert started.value.suggested_filename == "run-1-pair.csv"
    text = Path(started.value.path()).read_text()
    url = f"{seen.url}/v1/jobs/run-1/samples?order=pair&limit=10000&format=csv"
    assert text == httpx.get(url).text
    assert len(list(csv.DictReader(io.StringIO(text)))) == 96


def test_a_sample_tells_why_it_was_drawn(seen: Visit) -> None:
    seen.open("/jobs/run-1/samples/30")
    drawn = httpx.get(f"{seen.url}/v1/jobs/run-1/samples/30?draws=50").json()["draws"]
    expect(seen.page.get_by_text(f"Drawn last at step {drawn[0]['step']} by")).to_be_visible()
    expect(seen.page.get_by_role("row")).to_have_count(len(drawn) + 1)
    looked_at = [draw for draw in drawn if draw["probe"]]
    assert 0 < len(looked_at) < len(drawn)
    expect(seen.page.get_by_role("cell", name="looked at")).to_have_count(len(looked_at))


def test_any_sample_is_found_by_its_number(seen: Visit) -> None:
    seen.open("/jobs/run-1/samples")
    seen.page.get_by_label("Sample number").fill("17")
    seen.page.keyboard.press("Enter")
    expect(seen.page.get_by_role("heading", level=1)).to_have_text("Sample 17")


def test_a_swap_asks_first_and_then_happens(browser: Browser, trained: Service) -> None:
    with trained.client() as client, visit(browser, trained.url) as seen:
        simulate(client, spec("swapped"), range(4))
        seen.open("/jobs/swapped")
        seen.page.get_by_role("button", name="Swap policy…").click()
        seen.page.get_by_role("combobox", name="Policy").select_option("self_paced")
        seen.page.get_by_label("Parameters (JSON)").fill('{"initial_share": 0.5')
        seen.page.get_by_role("button", name="Continue").click()
        expect(seen.page.get_by_role("alert")).to_have_text("Parameters must be JSON.")
        seen.page.get_by_label("Parameters (JSON)").fill('{"initial_share": 0.5}')
        seen.page.get_by_label("Now: the rest of this interval is drawn anew").check()
        seen.page.get_by_role("button", name="Continue").click()
        question = seen.page.get_by_role("dialog", name="Swap the policy?")
        expect(question).to_contain_text("self_paced will take the place of balance in swapped, from the next step on.")
        assert client.job("swapped").policy.policy.name == "balance"
        question.get_by_role("button", name="Swap").click()
        expect(seen.page.get_by_text("self_paced v2, draws from step 4 on (initial_share 0.5)")).to_be_visible()
        assert client.job("swapped").policy.policy.parameters == {"initial_share": 0.5}
        assert seen.errors == []


def test_a_shadow_is_put_and_ended(browser: Browser, trained: Service) -> None:
    with trained.client() as client, visit(browser, trained.url) as seen:
        simulate(client, spec("watched"), range(4))
        seen.open("/jobs/watched")
        seen.page.get_by_role("button", name="Put shadow…").click()
        seen.page.get_by_role("combobox", name="Policy").select_option("uniform")
        seen.page.get_by_role("button", name="Continue").click()
        seen.page.get_by_role("dialog", name="Put the shadow?").get_by_role("button", name="Put the shadow").click()
        expect(seen.page.get_by_text("uniform v1, watches from step")).to_be_visible()
        seen.page.get_by_role("button", name="End shadow…").click()
        seen.page.get_by_role("button", name="End the shadow").click()
        expect(seen.page.get_by_role("button", name="End shadow…")).to_have_count(0)
        assert client.job("watched").shadow is None
        assert seen.errors == []


def test_what_others_wrote_is_shown_as_text_alone(browser: Browser, trained: Service) -> None:
    made = spec("hostile", interval=2).model_copy(update={"modalities": [HOSTILE, "<script>alert(2)</script>"]})
    with trained.client() as client, visit(browser, trained.url) as seen:
        seen.page.on("dialog", lambda dialog: seen.errors.append(dialog.message))
        client.create_job(made)
        client.swap("hostile", "curriculum", {"initial_share": 0.5})
        simulate(client, made, range(5))
        heads = dict(zip(made.modalities, report(5).modalities.values(), strict=True))
        client.validation("hostile", report(5).model_copy(update={"modalities": heads}))
        told = SampleDescriptions(index=[0, 1], texts=[HOSTILE, f"</td>{HOSTILE}"])
        client.describe("hostile", told)
        for route in ("/", "/jobs/hostile", "/jobs/hostile/samples?order=loss", "/jobs/hostile/samples/0"):
            seen.open(route)
            expect(seen.page.get_by_text(HOSTILE).or_(seen.page.get_by_text("hostile")).first).to_be_visible()
            assert seen.page.locator("main img[src=x], main script").count() == 0
        expect(seen.page.get_by_text(HOSTILE, exact=True).first).to_be_visible()
        assert seen.errors == []


def test_a_token_opens_the_page_and_stands_in_no_address_log_or_lasting_store(
    browser: Browser, start_service: Callable[..., Service], tmp_path: Path
) -> None:
    tokens = Tokens(f"sqlite:///{tmp_path}/bss.sqlite")
    reader, admin = tokens.create("reader", Scope.READ), tokens.create("chief", Scope.ADMIN)
    tokens.close()
    service = start_service()
    with service.client(token=admin) as client:
        simulate(client, spec("guarded"), range(4))
    with visit(browser, service.url) as seen:
        seen.open("/jobs/guarded")
        field = seen.page.get_by_label("Token")
        field.fill("not-a-token")
        seen.page.get_by_role("button", name="Sign in").click()
        refused = seen.page.get_by_role("dialog").get_by_role("alert")
        expect(refused).to_contain_text("a token of this service")
        field.fill(reader)
        seen.page.get_by_role("button", name="Sign in").click()
        expect(seen.page.get_by_role("heading", level=1)).to_have_text("guarded")
        expect(seen.page.get_by_text("this one is of scope read")).to_be_visible()
        expect(seen.page.get_by_role("button", name="Swap policy…")).to_have_count(0)
        assert seen.page.evaluate("localStorage.length + document.cookie.length") == 0
        assert reader not in "".join([seen.page.url, *seen.requests, *service.log])
        seen.page.get_by_role("button", name="Sign out").click()
        field.fill(admin)
        seen.page.get_by_role("button", name="Sign in").click()
        expect(seen.page.get_by_role("button", name="Swap policy…")).to_be_visible()


def test_all_of_it_can_be_reached_by_keys(seen: Visit) -> None:
    seen.open("/jobs/run-1")
    expect(seen.page.get_by_role("button", name="Swap policy…")).to_be_visible()
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.textContent") == "Skip to content"
    reached = set()
    for _ in range(60):
        seen.page.keyboard.press("Tab")
        reached.add(seen.page.evaluate("document.activeElement.textContent"))
    assert {"BSS scheduler", "All jobs", "Swap policy…", "Numbers", "Which samples are suspect?"} <= reached


def test_a_picture_is_a_file_that_the_service_made(seen: Visit, trained: Service) -> None:
    with trained.client() as client:
        kinds = {
            row.index: row.kind
            for row in client.describe("new", SampleDescriptions(index=[5], texts=["x"])).descriptions
        }
    assert kinds == {5: "text"}
    index = next(
        row["index"]
        for row in httpx.get(f"{seen.url}/v1/jobs/run-1/descriptions").json()["descriptions"]
        if row["kind"] == "picture"
    )
    answer = httpx.get(f"{seen.url}/v1/jobs/run-1/samples/{index}/description")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content.startswith(b"\x89PNG\r\n\x1a\n")
