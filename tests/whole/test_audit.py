"""What `make check` makes of pip-audit's answer."""

from typing import Any

from tools.audit import verdict

GOOD: dict[str, Any] = {"name": "good", "version": "1.0", "vulns": []}
BAD: dict[str, Any] = {"name": "bad", "version": "2.0", "vulns": [{"id": "CVE-2030-1", "fix_versions": ["2.1"]}]}
UNKNOWN: dict[str, Any] = {"name": "unknown", "skip_reason": "not found"}


def test_a_known_vulnerability_fails() -> None:
    code, sentence = verdict([GOOD, BAD, UNKNOWN])
    assert code == 1
    assert "bad 2.0: CVE-2030-1, fixed in 2.1" in sentence


def test_what_could_not_be_asked_is_not_called_sound() -> None:
    assert verdict([GOOD, UNKNOWN]) == (0, "no known vulnerability in 1 packages; 1 could not be asked for")
    assert verdict([UNKNOWN]) == (0, "could not run: the vulnerability service knows none of the packages")
