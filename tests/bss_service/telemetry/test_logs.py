"""What a request holds can't forge a line of the log, nor move the cursor of who reads it."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from bss_service.telemetry import logs

HOSTILE = "x\n2027-01-01T00:00:00Z [info] forged\r\x1b[2J\x1b]0;title\x07\u202e\u2028\x9b1m"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leaves logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def log_of(log_format: logs.Format, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that hostile texts leave in a log, wherever they can come in."""
    logs.set_up(log_format)
    log = structlog.get_logger()
    log.warning("refused", path=HOSTILE, values=[HOSTILE], error=ValueError(HOSTILE))
    log.warning(HOSTILE)
    logging.getLogger("uvicorn.error").warning("said %s", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        log.error("failed", exc_info=error)
    return capsys.readouterr().err.split("\n")


def test_in_the_console_format_each_line_is_printable_and_begins_with_a_time_or_a_space(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = log_of("console", capsys)
    assert all(line.isprintable() for line in lines), lines
    own = [line for line in lines if line and not line.startswith(" ")]
    assert len(own) == 4, own
    assert not any(line.startswith("2027") for line in own)
    assert any("forged" in line for line in own)


def test_in_the_json_format_each_line_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in log_of("json", capsys) if line]
    assert [json.loads(line)["level"] for line in lines] == ["warning", "warning", "warning", "error"]
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert json.loads(lines[0])["path"] == HOSTILE


def test_a_printable_text_stays_as_it_is() -> None:
    assert logs.printable("Ärger mit γ, naïve 日本") == "Ärger mit γ, naïve 日本"
