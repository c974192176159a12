"""Keys: the same key always has the same index."""

from copy import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bss_service.core.samples.keys import KEY_BYTES, Keys

names = st.lists(st.text(min_size=1, max_size=3))


@given(st.lists(names))
def test_a_key_has_the_number_of_keys_that_came_before_it(calls: list[list[str]]) -> None:
    keys, came = Keys(), list(dict.fromkeys(name for call in calls for name in call))
    for call in calls:
        keys.add(keys.new(call))
        assert keys.indices(call).tolist() == [came.index(name) for name in call]
    assert (keys.names, len(keys)) == (came, len(came))
    assert keys.nbytes == sum(KEY_BYTES + len(name.encode()) for name in came)


def test_a_copy_stays_as_it_is() -> None:
    keys = Keys.of(["a", "b"])
    before = copy(keys)
    keys.add(["c"])
    assert (before.names, len(before)) == (["a", "b"], 2)
    assert keys.names == ["a", "b", "c"]


def test_keys_that_are_not_apart_are_named() -> None:
    with pytest.raises(ValueError, match="got 'a' twice"):
        Keys.of(["a", "b", "a"])
