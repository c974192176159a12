"""The command that tells what rivals cost."""

import sys

import pytest

from trainer_client.reference.rivals import __main__ as command


def test_it_tells_of_each_rival(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["rivals"])
    monkeypatch.setattr(command, "rival_names", lambda: ["mmpareto", "umt"])
    assert command.main(samples=16, batch_size=8, repeats=1) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    figures = {row[1]: (float(row[3]), float(row[5])) for row in rows if row[1] in ("mmpareto", "umt")}
    assert all(step > 0 for step, _ in figures.values())
    assert figures["umt"][1] > figures["mmpareto"][1]  # teachers are trained before
    last = {row[1]: " ".join(row[row.index("│", 8) :]) for row in rows if row[1] in figures}
    assert last["mmpareto"].split()[1] == "yes" and last["umt"].split()[1] == "no:"
