"""Internal: which process of a service a request goes to: each job has one that owns it, which may change."""

import re
import ssl
import threading
import time
from functools import partial
from typing import Any, Final

import httpx
import pydantic_core

from trainer_client.http.transport import FAILURES, MAX_PROBLEM, Answer, Transport

HOPS: Final = 4  # requests for one answer: to who owned it last, to the service, to who owns it, and once more
MAX_ADDRESSES: Final = 64  # that are known at a time
MAX_JOBS: Final = 10_000
CHECK_SECONDS: Final = 2.0  # for the service to say who owns a job
_ADDRESS: Final = re.compile(r"(https?)://(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_JOB: Final = re.compile(r"/v1/jobs/([^/?]+)")


class Owners:
    """Requests to a service, and to those of its processes that it names as owners of jobs. Thread-safe.

    Nobody else can send a request on: only the service at the URL that the user gave is believed, and only in a
    problem whose `field` is `owner`. An owner that sends a request on, does not answer, or can't for now is forgotten,
    and the service is asked again; while it lets wait, the service is asked whether it still is the owner. An address
    must be of the scheme of the URL, so that no token goes without TLS where the URL has it.
    """

    def __init__(self, base_url: httpx.URL, headers: dict[str, str], context: ssl.SSLContext, timeout: float) -> None:
        self._service = Transport(base_url, headers, context, timeout)
        self._scheme = base_url.scheme
        self._connect = partial(Transport, headers=headers, context=context, timeout=timeout)
        self._others: dict[str, Transport] = {}  # by address
        self._owners: dict[str, Transport] = {}  # by job
        self._changing = threading.Lock()
        self._aborted = False

    def request(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str], *, seconds: float, most: int
    ) -> Answer:
        """See Transport. Raises ConnectionError where it was sent on too often."""
        match = _JOB.match(path)
        job = match[1] if match else None
        end = time.monotonic() + seconds
        asked = self._owners.get(job, self._service) if job is not None else self._service
        for _ in range(HOPS):
            waiting = None if asked is self._service else partial(self._check_owner, asked, job, headers)
            try:
                answer = asked.request(
                    method, path, content, headers, seconds=end - time.monotonic(), most=most, waiting=waiting
                )
            except BaseException:
                self._forget(job)
                raise
            if answer.is_success or not (address := self._sent_on(answer)):
                if answer.status >= 500:
                    self._forget(job)
                return answer
            if asked is self._service:
                asked = self._owner(job, address)
            else:
                self._forget(job)
                asked = self._service
        raise ConnectionError(f"sent on {HOPS} times, to {address} at last: its owner changes")

    def _check_owner(self, asked: Transport, job: str | None, headers: dict[str, str]) -> None:
        """Raises ConnectionError where the service names another owner by now: this one may hang for ever."""
        if job is None:
            return
        try:
            answer = self._service.request(
                "GET", f"/v1/jobs/{job}/policy", None, headers, seconds=CHECK_SECONDS, most=MAX_PROBLEM
            )
        except FAILURES:
            return
        if answer.is_success or ((address := self._sent_on(answer)) and self._others.get(address) is not asked):
            raise ConnectionError(f"another process owns job {job!r} by now")

    def abort(self) -> None:
        """Fail the requests under way in other threads, and all later ones."""
        with self._changing:
            self._aborted = True
            for transport in (self._service, *self._others.values()):
                transport.abort()

    def close(self) -> None:
        """Close the connections."""
        with self._changing:
            for transport in (self._service, *self._others.values()):
                transport.close()

    def _sent_on(self, answer: Answer) -> str:
        """The address that an answer names as that of the owner; "" for none that may be asked."""
        if answer.status != httpx.codes.TEMPORARY_REDIRECT or answer.media_type != "application/problem+json":
            return ""
        try:
            problem: Any = pydantic_core.from_json(answer.content)
        except ValueError:
            return ""
        address = problem.get("value") if isinstance(problem, dict) and problem.get("field") == "owner" else None
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        return match[0] if match is not None and match[1] == self._scheme else ""

    def _owner(self, job: str | None, address: str) -> Transport:
        """Connections to an address, and whoever asks for the job next gets them."""
        with self._changing:
            if address not in self._others:
                if len(self._others) >= MAX_ADDRESSES:
                    self._others.clear()
                    self._owners.clear()
                self._others[address] = self._connect(httpx.URL(address))
                if self._aborted:
                    self._others[address].abort()
            owner = self._others[address]
            if job is not None:
                if len(self._owners) >= MAX_JOBS:
                    self._owners.clear()
                self._owners[job] = owner
            return owner

    def _forget(self, job: str | None) -> None:
        if job is not None:
            self._owners.pop(job, None)
