from types import SimpleNamespace

import pytest

from bss_service.job.shown import views
from bss_service.policies import base
from tests.conftest import Trainer


def test_a_policy_whose_package_is_broken_is_listed_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise ImportError("no module named theirs")

    monkeypatch.setitem(base._installed(), "broken", SimpleNamespace(load=load))
    listed = {row.name: row for row in views.policies()}
    assert listed["broken"].error == "policy 'broken' can't be loaded: ImportError: no module named theirs"
    assert listed["uniform"].error is None


def test_pages_of_an_order_are_together_the_whole_of_it() -> None:
    trainer = Trainer("uniform", samples=40)
    trainer.train(20)
    pages = [views.samples(trainer.job, None, "loss", 10, start).samples for start in (0, 10, 20, 30, 40)]
    whole = views.samples(trainer.job, None, "loss", 100).samples
    assert [row for page in pages for row in page] == whole
    assert [row.loss for row in whole] == sorted((row.loss for row in whole), reverse=True)
