"""Tokens in the store, and `bss token`, which makes, lists and revokes them."""

import hmac
import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner, Result

from bss_cli.commands import app
from bss_service.errors import BssError, ConflictError, InvalidValueError, NotFoundError, StoreError
from bss_service.http.tokens import Scope, Token, Tokens, find
from bss_service.journal.store import Store

Run = Callable[..., Result]
NOW = 1_800_000_000  # 15 January 2027


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/bss.sqlite"


@pytest.fixture
def clock() -> list[int]:
    """Its one entry is the time."""
    return [NOW]


@pytest.fixture
def tokens(url: str, clock: list[int]) -> Tokens:
    return Tokens(url, clock=lambda: clock[0])


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `bss token` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **env: CliRunner().invoke(app, ["token", *arguments], env={"BSS_STORE": None, **env})


def test_a_token_is_found_by_its_text_alone(tokens: Tokens) -> None:
    text = tokens.create("trainer", Scope.TRAIN)
    [token] = tokens.all()
    assert find([token], text) == token
    assert find([token], text[:-1]) is find([token], "") is find([], text) is None
    assert (token.name, token.scope, token.created) == ("trainer", Scope.TRAIN, NOW)


def test_every_token_is_compared_in_constant_time(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests that refuse to be compared in any other way; the search does not end with the one that it is."""

    class Digest(bytes):
        def __eq__(self, other: object) -> NoReturn:
            raise AssertionError("compared by ==, which takes longer the more is right")

        __hash__ = bytes.__hash__

    compared: list[bytes] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(a)
        return bytes(a).hex() == bytes(b).hex()

    text = tokens.create("first", Scope.TRAIN)
    tokens.create("second", Scope.READ)
    stored = [replace(token, digest=Digest(token.digest)) for token in tokens.all()]
    monkeypatch.setattr(hmac, "compare_digest", compare)
    match = find(stored, text)
    assert match is not None
    assert match.name == "first"
    assert len(compared) == 2


def test_no_file_of_the_store_holds_the_token(tokens: Tokens, tmp_path: Path) -> None:
    text = tokens.create("trainer", Scope.TRAIN)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"trainer" in stored
    assert text.encode() not in stored
    assert text.removeprefix("bss_").encode() not in stored


def test_two_tokens_differ_in_256_bits(tokens: Tokens) -> None:
    first, second = tokens.create("a", Scope.READ), tokens.create("b", Scope.READ)
    assert re.fullmatch(r"bss_[A-Za-z0-9_-]{43}", first)  # 43 characters of base64 hold 256 bits
    assert first != second


def test_each_scope_holds_the_ones_before() -> None:
    allowed = [[scope.allows(needed) for needed in Scope] for scope in Scope]
    assert allowed == [[True, False, False], [True, True, False], [True, True, True]]


def test_a_token_ends_at_its_second(tokens: Tokens) -> None:
    tokens.create("short", Scope.READ, seconds=60)
    [short] = tokens.all()
    assert [short.valid(NOW), short.valid(NOW + 59.9), short.valid(NOW + 60)] == [True, True, False]


def test_a_revoked_token_is_kept_and_opens_nothing(tokens: Tokens, clock: list[int]) -> None:
    tokens.create("lost", Scope.ADMIN)
    tokens.revoke("lost")
    clock[0] += 5
    tokens.revoke("lost")  # as before
    [lost] = tokens.all()
    assert (lost.revoked, lost.valid(NOW)) == (NOW, False)


def test_a_name_is_free_again_once_its_token_opens_nothing(tokens: Tokens, clock: list[int]) -> None:
    first = tokens.create("trainer", Scope.TRAIN, seconds=60)
    with pytest.raises(ConflictError, match="token 'trainer' is there already"):
        tokens.create("trainer", Scope.TRAIN)
    clock[0] += 60
    second = tokens.create("trainer", Scope.READ)
    assert find(tokens.all(), first) is None
    tokens.revoke("trainer")
    tokens.create("trainer", Scope.READ)
    assert find(tokens.all(), second) is None


@pytest.mark.parametrize("name", ["", "a b", "../x", "a\n", "é", "a" * 101, "-x"])
def test_a_name_that_is_none_is_refused(tokens: Tokens, name: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^name must match"):
        tokens.create(name, Scope.READ)
    assert tokens.all() == []


def test_an_unknown_token_is_not_revoked(tokens: Tokens) -> None:
    with pytest.raises(NotFoundError, match="token 'nobody' is not known"):
        tokens.revoke("nobody")


def test_looking_makes_no_store(tokens: Tokens, tmp_path: Path) -> None:
    assert tokens.all() == []
    assert list(tmp_path.iterdir()) == []


def test_tokens_live_beside_a_service_of_the_store_and_in_one_made_before_them(url: str, tokens: Tokens) -> None:
    store = Store(url)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as older:
        older.execute("DROP TABLE IF EXISTS tokens")
    older.close()
    assert tokens.all() == []
    tokens.create("trainer", Scope.TRAIN)  # while the service holds the file
    assert [token.name for token in tokens.all()] == ["trainer"]
    store.close()
    Store(url).close()


def test_a_store_made_for_a_token_is_for_its_user_alone(tokens: Tokens, tmp_path: Path) -> None:
    tokens.create("trainer", Scope.TRAIN)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_a_file_that_is_no_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "bss.sqlite").write_text("no database, " * 100)
    broken = Tokens(f"sqlite:///{tmp_path}/bss.sqlite")
    acts: list[Callable[[], object]] = [broken.all, lambda: broken.create("a", Scope.READ)]
    for act in acts:
        with pytest.raises(StoreError, match="file is not a database"):
            act()


def test_bss_token_makes_lists_and_revokes(token: Run, tmp_path: Path) -> None:
    assert token("list").stdout == "no tokens yet\n"
    made = token("create", "trainer", "--scope", "train", "--expires", "30d")
    [stored] = Tokens(f"sqlite:///{tmp_path}/bss.sqlite").all()
    assert find([stored], made.stdout.strip()) == stored
    assert stored.expires == stored.created + 30 * 86400
    assert re.search(r"trainer +│ train +│ .* UTC +│ valid until .* UTC", token("list", COLUMNS="120").stdout)
    assert token("revoke", "trainer", "--yes").stdout == "trainer: revoked\n"
    assert "revoked 2" in token("list", COLUMNS="120").stdout
    assert made.stdout.strip() not in token("list", COLUMNS="200").stdout


def test_the_last_token_is_not_revoked_where_nobody_can_be_asked(token: Run, tokens: Tokens) -> None:
    token("create", "first", "--scope", "train")
    token("create", "last", "--scope", "train")
    assert token("revoke", "first").stdout == "first: revoked\n"  # the other still opens the service
    refused = token("revoke", "last")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "last is the last valid token: without it the service answers nobody" in refused.stderr
    assert "only --yes does that" in refused.stderr
    assert [each.name for each in tokens.all() if each.revoked is None] == ["last"]
    assert token("revoke", "last", "--yes").stdout == "last: revoked\n"


def test_bss_token_takes_the_store_as_bss_serve_does(token: Run, tmp_path: Path) -> None:
    (tmp_path / "bss.toml").write_text('store = "sqlite:///file.sqlite"')
    token("create", "a", "--scope", "read")
    token("create", "b", "--scope", "read", BSS_STORE="sqlite:///environment.sqlite")
    token("create", "c", "--scope", "read", "--store", "sqlite:///flag.sqlite", BSS_STORE="sqlite:///other.sqlite")
    stores = {path.stem: Tokens(f"sqlite:///{path}").all() for path in tmp_path.glob("*.sqlite")}
    assert {stem: [token.name for token in stored] for stem, stored in stores.items()} == {
        "file": ["a"],
        "environment": ["b"],
        "flag": ["c"],
    }


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["create", "a", "--scope", "root"], 2, "--scope must be one of read, train, admin, got 'root'"),
        (
            ["create", "a", "--scope", "read", "--expires", "soon"],
            2,
            "--expires must be like 12h, 30d or 4w, got 'soon'",
        ),
        (["create", "a", "--scope", "read", "--expires", "0d"], 2, "--expires must be like 12h, 30d or 4w, got '0d'"),
        (["create", "a b", "--scope", "read"], 1, "name must match"),
        (["revoke", "nobody"], 1, "token 'nobody' is not known"),
        (["list", "--store", "nonsense://me:secret@x"], 1, "the store 'nonsense://me:***@x' can't be opened"),
    ],
)
def test_what_is_wrong_is_one_sentence(token: Run, arguments: list[str], code: int, sentence: str) -> None:
    result = token(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(f"error: {sentence}")
    assert len(result.stderr.splitlines()) == 1


def test_a_taken_name_keeps_its_token(tokens: Tokens) -> None:
    text = tokens.create("trainer", Scope.TRAIN)
    before: list[Token] = tokens.all()
    with pytest.raises(BssError):
        tokens.create("trainer", Scope.ADMIN)
    assert tokens.all() == before
    assert find(before, text) is not None
