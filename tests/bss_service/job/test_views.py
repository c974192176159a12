from types import SimpleNamespace

import pytest

from bss_service.job import views
from bss_service.policies import base


def test_a_policy_whose_package_is_broken_is_listed_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise ImportError("no module named theirs")

    monkeypatch.setitem(base._installed(), "broken", SimpleNamespace(load=load))
    listed = {row.name: row for row in views.policies()}
    assert listed["broken"].error == "policy 'broken' can't be loaded: ImportError: no module named theirs"
    assert listed["uniform"].error is None
