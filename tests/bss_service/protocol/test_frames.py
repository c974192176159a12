import io
import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bss_service.protocol import frames
from bss_service.protocol.frames import FrameError

dtypes = st.sampled_from([np.float32, np.float64, np.int64, np.uint32, np.bool_])
values = arrays(dtypes, array_shapes(min_dims=1, min_side=0, max_dims=3, max_side=4), elements=st.just(1))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
names = st.text("abc_αβ", min_size=1)
messages = st.dictionaries(
    names,
    st.recursive(
        scalars | values,
        lambda inner: (
            st.dictionaries(names, inner, max_size=3) | st.lists(scalars | st.dictionaries(names, inner), max_size=3)
        ),
        max_leaves=8,
    ),
)

FRAME = frames.encode({"step": 3, "rows": np.arange(6).reshape(2, 3), "list": [{"x": np.ones(2, np.float32)}]})


def frame(arrays: dict[str, np.ndarray], message: object) -> bytes:
    return safetensors.numpy.save(arrays, {"message": message if isinstance(message, str) else json.dumps(message)})


def header(text: str) -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode()


@given(messages)
def test_a_message_survives_its_frame(message: dict[str, Any]) -> None:
    again = frames.decode(frames.encode(message))
    np.testing.assert_equal(again, message)
    assert [a.dtype for a in leaves(again)] == [a.dtype for a in leaves(message)]


def leaves(message: object) -> list[np.ndarray]:
    if isinstance(message, np.ndarray):
        return [message]
    inner = message.values() if isinstance(message, dict) else message if isinstance(message, list) else []
    return [leaf for item in inner for leaf in leaves(item)]


def test_a_frame_is_a_safetensors_file_that_other_languages_read() -> None:
    assert sorted(safetensors.numpy.load(FRAME)) == ["list.0.x", "rows"]


@given(messages)
def test_a_frame_is_what_safetensors_writes_to_the_byte(message: dict[str, Any]) -> None:
    written = frames.encode(message)
    arrays, strings = frames.unpack(written)
    assert written == safetensors.numpy.save(arrays, strings)


ODD = st.sampled_from(
    rb'"shape":[1]|"shape":[true]|"shape":[1.0]|"shape":[-1]|"shape":[0]|"shape":[2]|"shape":[1,1]|"dtype":"F32"|'
    rb'"dtype":"F32","dtype":"F32"|F32|F64|BF16|BOOL|"a"|"b"|"__metadata__"|\"a\"|"x":1|[0,4]|[4,0]|[4,8]|[0,4,8]|'
    rb"-0|4|8|4.0|04|\n| |{|}|NaN".split(b"|")
)
TWO = header(
    '{"__metadata__":{"message":"{\\"a\\":1}"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    ',"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
)


@given(st.lists(st.tuples(ODD, ODD), max_size=2), st.integers(-1, 1), st.integers(0, 12))
def test_what_is_read_without_safetensors_it_reads_alike(
    changes: list[tuple[bytes, bytes]], longer: int, size: int
) -> None:
    text = TWO[8:]
    for before, after in changes:
        text = text.replace(before, after, 1)
    data = (len(text) + longer).to_bytes(8, "little") + text + bytes(size)
    own = frames._unpack_plain(data)
    if own is not None:
        arrays, strings = frames.unpack(data)
        assert strings == {"message": own[1]}
        assert sorted(map(repr, arrays.items())) == sorted(map(repr, own[0]))


def test_a_plain_frame_needs_no_safetensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "unpack", None)
    again = frames.decode(FRAME)
    assert again["list"][0]["x"].flags.writeable
    assert again["rows"].flags.aligned
    assert frames.decode(frames.encode({})) == {}


def test_what_no_frame_holds_is_told_by_its_type() -> None:
    with pytest.raises(ValueError, match="complex128"):
        frames.encode({"x": np.zeros(1, np.complex128)})


def test_arrays_that_are_not_contiguous_arrive_as_they_read() -> None:
    turned = np.arange(6).reshape(2, 3).T
    assert frames.decode(frames.encode({"x": turned}))["x"].tolist() == turned.tolist()


@given(st.integers(0, len(FRAME) - 1))
def test_a_truncated_frame_is_refused(length: int) -> None:
    with pytest.raises(FrameError):
        frames.decode(FRAME[:length])


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        frames.decode(data)


@given(st.integers(0, len(FRAME) - 1), st.integers(0, 255))
def test_one_wrong_byte_is_refused_or_read_but_never_breaks(place: int, byte: int) -> None:
    with suppress(FrameError):
        frames.decode(FRAME[:place] + bytes([byte]) + FRAME[place + 1 :])


LIES = {
    "a list for a message": (frame({}, [1, 2]), "message must be an object, got list"),
    "no JSON": (frame({}, "{broken"), "not a frame"),
    "nested too deep": (frame({}, "[" * 100_000), "not a frame"),
    "not a number": (frame({}, '{"loss": NaN}'), "JSON has no nan"),
    "infinity": (frame({}, '{"loss": -Infinity}'), "JSON has no -inf"),
    "a number that is too large": (frame({}, '{"loss": 1e999}'), "JSON has no inf"),
    "what UTF-8 can't hold": (frame({}, '{"name": "\\ud800"}'), "not a frame"),
    "an array inside a number": (frame({"a.b": np.ones(1)}, {"a": 5}), "nothing in its message holds 'a.b'"),
    "an array beyond a list": (frame({"a.7": np.ones(1)}, {"a": [1]}), "nothing in its message holds 'a.7'"),
    "an array below a list": (frame({"a.x.y": np.ones(1)}, {"a": [1]}), "nothing in its message holds 'a.x.y'"),
    "an index too long to read": (frame({f"a.{'9' * 5000}.b": np.ones(1)}, {"a": [1]}), "not a frame"),
    "a dtype of its own": (header('{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}') + b"\0\0", "'BF16'"),
    "too few bytes": (header('{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}') + bytes(4), "not a frame"),
    "too many axes": (
        header(f'{{"x":{{"dtype":"F32","shape":{[1] * 70},"data_offsets":[0,4]}}}}') + bytes(4),
        "dimension",
    ),
    "a huge shape": (
        header('{"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'),
        "not a frame",
    ),
    "a number for a message": (header('{"__metadata__":{"message":5}}'), "not a frame"),
    "a huge header": ((2**63).to_bytes(8, "little"), "not a frame"),
    "nothing": (b"", "not a frame"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_frame_that_lies_is_refused_with_the_reason(lie: str) -> None:
    data, reason = LIES[lie]
    with pytest.raises(FrameError, match=reason) as refused:
        frames.decode(data)
    assert str(refused.value).count("body is not a frame") == 1


@pytest.mark.parametrize("count", [512, 513, 1024, 1500])
def test_a_long_list_is_written_a_part_at_a_time_to_the_same_bytes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    message = {"rows": [{"index": k, "name": "é", "loss": k / 7} for k in range(count)], "none": [], "x": np.ones(2)}
    in_parts = frames.encode(message)
    monkeypatch.setattr(frames, "_AT_ONCE", 10**6)
    assert in_parts == frames.encode(message)
    assert frames.decode(in_parts)["rows"] == message["rows"]


def test_a_frame_may_hold_nothing() -> None:
    assert frames.decode(header('{"__metadata__":null}')) == {}


def test_an_array_without_axes_stays_one() -> None:
    assert frames.decode(frames.encode({"x": np.array(7)}))["x"].shape == ()


def test_a_nameless_object_survives_its_frame() -> None:
    assert frames.decode(frames.encode({"": {"x": np.ones(1)}}))[""]["x"].tolist() == [1]


def test_what_json_cannot_say_is_not_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        frames.encode({"loss": float("nan")})


def test_large_arrays_are_copied_a_piece_at_a_time_into_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    message = {"a": np.arange(60.0).reshape(3, 20), "b": np.array(True), "none": np.empty((0, 4)), "c": [1, "x"]}
    whole, written = frames.encode(message), []

    class Joined(io.BytesIO):
        def write(self, octets: Any) -> int:
            written.append(len(octets))
            return super().write(octets)

    monkeypatch.setattr(frames, "_PIECE", 64)
    monkeypatch.setattr("bss_service.protocol.frames.io.BytesIO", Joined)
    assert frames.encode(message) == whole
    assert max(written[1:]) == 64  # behind the header
