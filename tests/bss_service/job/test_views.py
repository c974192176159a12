from types import SimpleNamespace

import pytest

from bss_service.job import views
from bss_service.job.summaries import Rankings
from bss_service.policies import base
from tests.conftest import Trainer


def test_a_policy_whose_package_is_broken_is_listed_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise ImportError("no module named theirs")

    monkeypatch.setitem(base._installed(), "broken", SimpleNamespace(load=load))
    listed = {row.name: row for row in views.policies()}
    assert listed["broken"].error == "policy 'broken' can't be loaded: ImportError: no module named theirs"
    assert listed["uniform"].error is None


def test_a_ranking_is_made_once_for_all_its_pages_and_anew_after_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer("uniform", samples=40)
    trainer.train(20)
    made: list[str] = []
    rank = views._rank
    monkeypatch.setattr(views, "_rank", lambda job, evidence, order: made.append(order) or rank(job, evidence, order))
    kept: Rankings = {}
    pages = [views.samples(trainer.job, None, "loss", 10, start, kept).samples for start in (0, 10, 20, 30, 40)]
    assert made == ["loss"]
    whole = views.samples(trainer.job, None, "loss", 100).samples
    assert [row for page in pages for row in page] == whole
    assert [row.loss for row in whole] == sorted((row.loss for row in whole), reverse=True)
    views.samples(trainer.job, None, "draws", 10, 0, kept)
    trainer.train(10)
    after = views.samples(trainer.job, None, "loss", 10, 0, kept)
    assert made == ["loss", "loss", "draws", "loss"]
    assert after == views.samples(trainer.job, None, "loss", 10)
