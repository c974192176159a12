"""How a trainer reaches its service: whom it trusts, what it waits for, and what it gives up at once."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from typer.testing import CliRunner

from bss_cli.commands import app
from bss_service.http.auth import FRESH
from bss_service.http.tokens import Scope, Tokens
from tests.support.services import Service
from tests.support.simulated import spec
from tests.trainer_client.support.ingress import PAGE, Answer, Ingress
from trainer_client import (
    CertificateError,
    ForbiddenError,
    OutageError,
    ScheduledBatchSampler,
    SchedulerClient,
    SchedulerError,
    StepsRequest,
    StrangeAnswerError,
    UnauthorisedError,
    UnknownJobError,
)

AT_ONCE = 5.0  # seconds, on a busy machine; a wait has no end
TOKEN, OTHER_TOKEN = "a-token-that-only-tests-use", "another-token-of-the-tests"
MakeIngress = Callable[..., Ingress]
under_every_choice = pytest.mark.parametrize("on_outage", ["wait", "raise", "local"])


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A private one, which no system knows."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return file


@pytest.fixture
def ingress(service: Service, tmp_path: Path) -> Iterator[MakeIngress]:
    """Before the shared service, or another."""
    started: list[Ingress] = []

    def make(certificate: trustme.LeafCert | None = None, url: str = service.url, **options: Any) -> Ingress:
        started.append(Ingress(url, certificate, tmp_path, **options))
        return started[-1]

    yield make
    for one in started:
        one.stop()


def train(sampler: ScheduledBatchSampler, at: dict[int, Callable[[], object]] | None = None, epochs: int = 1) -> int:
    """Train some epochs, and do something behind a step; how many steps there were."""
    steps = 0
    for _ in range(epochs):
        for _ in sampler:
            sampler.feedback(steps)
            steps += 1
            (at or {}).get(steps, lambda: None)()
    return steps


def fails_at_once(kind: type[SchedulerError], reason: str, url: str, name: str, on_outage: Any, **options: Any) -> None:
    """Whether a sampler can't be made, and that isn't waited for."""
    started = time.monotonic()
    with SchedulerClient(url, **options) as client, pytest.raises(kind, match=reason):
        ScheduledBatchSampler(spec(name), client, on_outage=on_outage, outage_after=60.0)
    assert time.monotonic() - started < AT_ONCE


def ends_in_the_run(
    kind: type[SchedulerError], reason: str, client: SchedulerClient, name: str, on_outage: Any, act: Callable[[], Any]
) -> None:
    """Whether a run ends soon behind an act in its third step, in whichever thread a call meets its effect."""
    started = time.monotonic()
    with (
        pytest.raises(kind, match=reason),
        ScheduledBatchSampler(spec(name), client, on_outage=on_outage, outage_after=60.0, prefetch=2) as sampler,
    ):
        train(sampler, {3: act}, epochs=100)
    assert time.monotonic() - started < 2 * AT_ONCE


# Whom it trusts.


@pytest.mark.parametrize("how", ["SSL_CERT_FILE", "SSL_CERT_DIR", "verify=file", "verify=context", "verify=False"])
def test_a_run_through_tls_with_a_private_authority(
    ingress: MakeIngress,
    authority: trustme.CA,
    ca_file: Path,
    job_name: str,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options: dict[str, Any] = {
        "verify=file": {"verify": ca_file},
        "verify=context": {"verify": ssl.create_default_context(cafile=ca_file)},
        "verify=False": {"verify": False},
    }.get(how, {})
    if how == "SSL_CERT_FILE":
        monkeypatch.setenv(how, str(ca_file))
    if how == "SSL_CERT_DIR":
        shown = subprocess.run(["openssl", "x509", "-hash", "-noout", "-in", ca_file], capture_output=True, check=True)
        (ca_file.parent / f"{shown.stdout.decode().strip()}.0").symlink_to(ca_file)  # as OpenSSL looks for it
        monkeypatch.setenv(how, str(ca_file.parent))
    url = ingress(authority.issue_cert("127.0.0.1")).url
    with SchedulerClient(url, **options) as client, ScheduledBatchSampler(spec(job_name), client) as sampler:
        assert train(sampler, epochs=2) == 12
    warning = f"verify is False: whoever answers at {url} is taken for the scheduler and sent the token"
    assert caplog.messages.count(warning) == (how == "verify=False")


@under_every_choice
def test_a_certificate_of_a_stranger_is_told_at_once(
    ingress: MakeIngress, authority: trustme.CA, job_name: str, on_outage: str
) -> None:
    url = ingress(authority.issue_cert("127.0.0.1")).url
    reason = r"has a certificate that is not trusted: .*; name the file of the CA that signed it by SSL_CERT_FILE"
    fails_at_once(CertificateError, reason, url, job_name, on_outage)


@under_every_choice
def test_a_certificate_for_another_host_is_told_at_once(
    ingress: MakeIngress, authority: trustme.CA, ca_file: Path, job_name: str, on_outage: str
) -> None:
    url = ingress(authority.issue_cert("scheduler.example")).url
    reason = r"certificate that is for another host: .*'127\.0\.0\.1'; let the url name a host that"
    fails_at_once(CertificateError, reason, url, job_name, on_outage, verify=ca_file)


@under_every_choice
def test_a_certificate_of_a_stranger_ends_a_run_too(
    ingress: MakeIngress, authority: trustme.CA, ca_file: Path, job_name: str, on_outage: str
) -> None:
    before = ingress(authority.issue_cert("127.0.0.1"))

    def replace() -> None:
        before.stop()
        before.start(trustme.CA().issue_cert("127.0.0.1"))

    with SchedulerClient(before.url, verify=ca_file) as client:
        ends_in_the_run(CertificateError, "is not trusted", client, job_name, on_outage, replace)


def test_a_certificate_that_has_expired_is_told_at_the_start_and_waited_for_in_a_run(
    ingress: MakeIngress, authority: trustme.CA, ca_file: Path, job_name: str
) -> None:
    expired = authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
    fails_at_once(CertificateError, "have it renewed", ingress(expired).url, job_name, "wait", verify=ca_file)
    before = ingress(authority.issue_cert("127.0.0.1"))

    def expire() -> None:
        before.stop()
        before.start(expired)
        threading.Timer(0.5, renew).start()

    def renew() -> None:
        before.stop()
        before.start(authority.issue_cert("127.0.0.1"))

    with (
        SchedulerClient(before.url, verify=ca_file) as client,
        ScheduledBatchSampler(spec(job_name), client, prefetch=2) as sampler,
    ):
        assert train(sampler, {3: expire}, epochs=2) == 12
        assert sampler.stats.outages == 1


@pytest.mark.parametrize("where", ["SSL_CERT_FILE", "verify"])
def test_a_file_of_certificates_that_is_not_there_is_named(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(missing))
    with pytest.raises(ValueError, match=rf"^{where} must be a file of CA certificates \(PEM\), got '{missing}'"):
        SchedulerClient("https://127.0.0.1:1", **({"verify": missing} if where == "verify" else {}))
    SchedulerClient("http://127.0.0.1:1").close()  # which needs none


def test_commands_follow_the_environment(ingress: MakeIngress, authority: trustme.CA, ca_file: Path) -> None:
    environment = {"BSS_URL": ingress(authority.issue_cert("127.0.0.1")).url, "SSL_CERT_FILE": str(ca_file)}
    trusting = CliRunner().invoke(app, ["jobs"], env=environment)
    assert (trusting.exit_code, trusting.stderr) == (0, "")
    wary = CliRunner().invoke(app, ["jobs"], env={**environment, "SSL_CERT_FILE": None})
    assert wary.exit_code == 1
    assert "is not trusted" in wary.stderr and "SSL_CERT_FILE" in wary.stderr and "bss serve" not in wary.stderr
    misled = CliRunner().invoke(app, ["jobs"], env={**environment, "SSL_CERT_FILE": "/missing"})
    assert (misled.exit_code, misled.stderr[:35]) == (2, "error: SSL_CERT_FILE must be a file")


def test_a_call_that_waits_can_be_ended_through_tls_too(
    ingress: MakeIngress, authority: trustme.CA, ca_file: Path, job_name: str
) -> None:
    through = ingress(authority.issue_cert("127.0.0.1"))
    with SchedulerClient(through.url, verify=ca_file, retries=0) as client:
        client.create_job(spec(job_name, patience=60.0))
        client.steps(job_name, StepsRequest(start=0, count=6))
        through.asked.clear()
        threading.Thread(target=lambda: through.asked.wait(10) and (time.sleep(0.2), client.abort())).start()
        started = time.monotonic()
        with pytest.raises(OutageError):
            client.steps(job_name, StepsRequest(start=6), patience=60.0)  # of an interval that waits for feedback
    assert time.monotonic() - started < AT_ONCE


def test_proxies_of_the_environment_are_not_used(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with service.client(retries=0) as client:
        assert client.jobs()


# What no waiting mends.


@pytest.mark.parametrize(
    "url",
    ["ftp://localhost", "localhost:8765", "http://", "http://[::1", "http://a..b", f"http://{64 * 'a'}.example", ""],
)
def test_a_url_that_no_service_can_have_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^url must be like http://127\.0\.0\.1:8765, got '.*'"):
        SchedulerClient(url)


@under_every_choice
@pytest.mark.parametrize(
    "answer",
    [
        PAGE,
        (200, "text/html", b"<html>welcome</html>"),
        (302, "text/html", b"<html>sign in</html>"),
        (401, "text/html", b"<html>sign in</html>"),
        (500, "text/html", b"<html>oh</html>"),
        (200, "application/json", b'{"status": "ok"}'),
        (200, "application/vnd.bss.frame", b"nonsense"),
    ],
    ids=lambda answer: f"{answer[0]} {answer[1]}",
)
def test_something_else_at_the_address_is_told_at_once(
    ingress: MakeIngress, job_name: str, answer: Answer, on_outage: str
) -> None:
    other = ingress()
    other.instead = answer
    reason = f"gave an answer that is not the scheduler's, of status {answer[0]}"
    fails_at_once(StrangeAnswerError, reason, other.url, job_name, on_outage)


@under_every_choice
def test_a_path_that_is_not_the_services_is_told_at_once(service: Service, job_name: str, on_outage: str) -> None:
    reason = r"/v1/v1/jobs is no call of the service there: POST /v1/v1/jobs: Not Found"
    fails_at_once(StrangeAnswerError, reason, f"{service.url}/v1", job_name, on_outage)


def test_a_service_may_be_under_a_path_of_a_proxy(ingress: MakeIngress, job_name: str) -> None:
    url = ingress(prefix="/scheduler").url
    with SchedulerClient(f"{url}/") as client, ScheduledBatchSampler(spec(job_name), client) as sampler:
        assert train(sampler) == 6


@under_every_choice
def test_tls_where_none_is_spoken_is_told_at_once(service: Service, job_name: str, on_outage: str) -> None:
    url = service.url.replace("http:", "https:")
    fails_at_once(StrangeAnswerError, "does not speak TLS as this client does", url, job_name, on_outage)


@under_every_choice
def test_a_token_that_is_missing_or_not_enough_is_told_at_once(
    start_service: Callable[..., Service], on_outage: str
) -> None:
    service = start_service(BSS_TOKEN=TOKEN)
    fails_at_once(UnauthorisedError, "authorization must be", service.url, "job", on_outage)
    reader = Tokens(f"sqlite:///{service.store}").create("reader", Scope.READ)
    time.sleep(FRESH)
    fails_at_once(ForbiddenError, "needs a token of scope train", service.url, "job", on_outage, token=reader)


@under_every_choice
def test_a_job_that_is_deleted_ends_the_run(
    service: Service, client: SchedulerClient, job_name: str, on_outage: str
) -> None:
    ends_in_the_run(UnknownJobError, job_name, client, job_name, on_outage, lambda: client.delete_job(job_name))


@under_every_choice
def test_a_token_that_is_good_no_more_behind_an_outage_ends_the_run(
    start_service: Callable[..., Service], ingress: MakeIngress, on_outage: str
) -> None:
    service = start_service(BSS_TOKEN=TOKEN)
    through = ingress(url=service.url)

    def restart() -> None:
        through.service = start_service(BSS_TOKEN=OTHER_TOKEN).url

    long = spec("job", samples=80_000)  # an epoch of 100 seconds
    after = 0.1 if on_outage == "local" else 60.0  # so that it draws by itself meanwhile
    started = time.monotonic()
    with (
        SchedulerClient(through.url, token=TOKEN) as client,
        pytest.raises(UnauthorisedError, match="authorization must be"),
        ScheduledBatchSampler(long, client, on_outage=on_outage, outage_after=after, prefetch=1) as sampler,
    ):
        for step, _ in enumerate(sampler):  # a loop that feeds nothing back
            if step == 3:
                service.kill()
                threading.Timer(0.5, restart).start()
            time.sleep(0.01)
    assert time.monotonic() - started < 60  # a service starts meanwhile


# What is waited for.


def test_an_ingress_that_is_reloaded_in_a_run_is_an_outage(ingress: MakeIngress, job_name: str) -> None:
    through = ingress()

    def reload() -> None:
        through.instead = PAGE
        threading.Timer(0.5, lambda: setattr(through, "instead", None)).start()

    with SchedulerClient(through.url) as client, ScheduledBatchSampler(spec(job_name), client, prefetch=2) as sampler:
        assert train(sampler, {3: reload}, epochs=2) == 12
        assert sampler.stats.outages == 1
        through.instead = PAGE
        with pytest.raises(OutageError, match="not the scheduler's, of status 404"):
            client.without_retries().jobs()
        through.instead = None


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateway_without_its_service_is_waited_for_from_the_start(
    ingress: MakeIngress, job_name: str, status: int
) -> None:
    through = ingress()
    through.instead = (status, "text/html", b"<html>no upstream</html>")
    threading.Timer(0.5, lambda: setattr(through, "instead", None)).start()
    with SchedulerClient(through.url) as client, ScheduledBatchSampler(spec(job_name), client) as sampler:
        assert train(sampler) == 6


def test_a_name_that_is_not_known_is_waited_for(job_name: str) -> None:
    started = time.monotonic()
    with (
        SchedulerClient("http://scheduler.invalid") as client,
        pytest.raises(OutageError, match="Name or service not known"),
    ):
        ScheduledBatchSampler(spec(job_name), client, on_outage="raise", outage_after=0.5)
    assert time.monotonic() - started >= 0.5


def test_a_resolver_that_says_nothing_takes_no_more_than_a_call_may(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, of_system = threading.Event(), socket.getaddrinfo

    def slow(host: str, *arguments: Any, **options: Any) -> Any:
        if options.get("flags") != socket.AI_NUMERICHOST:
            answers.wait()
        return of_system(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        with (
            SchedulerClient("http://scheduler.invalid", timeout=0.3, retries=0) as client,
            pytest.raises(OutageError, match=r"'scheduler\.invalid' was not resolved in time"),
        ):
            client.jobs()
    finally:
        answers.set()


def test_another_address_of_a_name_is_tried(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    of_system = socket.getaddrinfo
    addresses = [closed_address(), of_system("127.0.0.1", port_of(service.url), type=socket.SOCK_STREAM)[0]]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    with (
        SchedulerClient(f"http://scheduler.invalid:{port_of(service.url)}", retries=0) as client,
        pytest.raises(SchedulerError, match="host must be loopback"),
    ):
        client.jobs()  # it has come to the service, which is not called so


def closed_address() -> tuple[Any, ...]:
    """One at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return socket.AF_INET, socket.SOCK_STREAM, 0, "", server.getsockname()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])
