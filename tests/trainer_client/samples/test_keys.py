"""Keys in messages that the service takes."""

import json

from hypothesis import given
from hypothesis import strategies as st

from bss_service.protocol.samples import MAX_KEYS, SampleKeys
from trainer_client.samples.keys import MOST, in_messages


@given(st.lists(st.text(min_size=1, max_size=4), max_size=50), st.integers(1, 200))
def test_they_stay_in_their_order_whatever_their_number(keys: list[str], times: int) -> None:
    parts = list(in_messages(keys * times))
    assert [key for part in parts for key in part] == keys * times
    assert all(0 < len(part) <= MAX_KEYS for part in parts)


def test_a_message_is_as_long_as_a_frame_may_be() -> None:
    parts = list(in_messages(["ü" * 255] * MAX_KEYS))
    assert len(parts) > 1
    assert all(len(json.dumps(part)) < 2 * MOST for part in parts)
    SampleKeys(keys=parts[0])
