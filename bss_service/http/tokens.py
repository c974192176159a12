"""Bearer tokens: who may do what, until when.

The store holds no token, only its SHA-256. A token is 256 random bits, so neither guessing nor a table of hashes finds
it; a slow, salted hash, which passwords need, would protect nothing more and cost every request.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from bss_service.errors import BssError, ConflictError, InvalidValueError, NotFoundError, StoreError
from bss_service.journal.engine import create_engine, reason
from bss_service.journal.schema import metadata
from bss_service.protocol.message import NAME_PATTERN

PREFIX: Final = "bss_"  # by which scanners for leaked secrets can know one
BYTES: Final = 32

_tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("scope", sa.String(10), nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),  # seconds since 1970, UTC, as all times here
    sa.Column("expires", sa.BigInteger),  # null: never
    sa.Column("revoked", sa.BigInteger),  # null: not
)


class Scope(StrEnum):
    """What a token is good for. Each allows what the ones before it do."""

    READ = "read"
    TRAIN = "train"
    ADMIN = "admin"

    def allows(self, needed: "Scope") -> bool:
        """Whether a token of this scope may do what needs another."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token."""

    name: str
    digest: bytes
    scope: Scope
    created: int
    expires: int | None = None
    revoked: int | None = None

    def valid(self, now: float) -> bool:
        """Whether it opens anything at a time."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class Tokens:
    """The tokens in the store at a SQLAlchemy URL, also while a service has it open. Raises StoreError."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self._engine = create_engine(url)
        self._clock = clock

    def all(self) -> list[Token]:
        """All tokens that were ever made, by name. Makes no store where there is none."""
        if not self._exists():
            return []
        try:
            with self._engine.connect() as connection:
                if not sa.inspect(connection).has_table(_tokens.name):
                    return []
                return [_token(row) for row in connection.execute(sa.select(_tokens).order_by(_tokens.c.name))]
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"the tokens can't be read: {reason(error)}") from None

    def create(self, name: str, scope: Scope, seconds: int | None = None) -> str:
        """Make a token, good for so many seconds or for ever. Its text is given out this once.

        A name is free again once its token is revoked or has expired.
        """
        _check_name(name)
        now = int(self._clock())
        text = PREFIX + secrets.token_urlsafe(BYTES)
        self._make_private()
        try:
            with self._engine.begin() as connection:
                metadata.create_all(connection, tables=[_tokens])
                self._clear(connection, name, now)
                expires = None if seconds is None else now + seconds
                row = {"name": name, "digest": digest(text), "scope": scope.value, "created": now, "expires": expires}
                connection.execute(_tokens.insert().values(row))
        except sa.exc.IntegrityError:
            raise _taken(name) from None
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"the token was not stored: {reason(error)}") from None
        return text

    def revoke(self, name: str) -> None:
        """Let a token open nothing any more. A repetition changes nothing."""
        if name not in {token.name for token in self.all()}:
            raise NotFoundError(f"token {name!r} is not known", field="name", value=name)
        now = int(self._clock())
        change = _tokens.update().where(_tokens.c.name == name, _tokens.c.revoked.is_(None)).values(revoked=now)
        try:
            with self._engine.begin() as connection:
                connection.execute(change)
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"the token was not revoked: {reason(error)}") from None

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _clear(self, connection: sa.Connection, name: str, now: int) -> None:
        row = connection.execute(sa.select(_tokens).where(_tokens.c.name == name)).one_or_none()
        if row is not None and _token(row).valid(now):
            raise _taken(name)
        connection.execute(_tokens.delete().where(_tokens.c.name == name))

    def _exists(self) -> bool:
        return self._file is None or self._file.exists()

    def _make_private(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # it is there already, or can't be: then connecting says why
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._file.touch(mode=0o600, exist_ok=False)

    @property
    def _file(self) -> Path | None:
        database = self._engine.url.database
        return Path(database) if self._engine.dialect.name == "sqlite" and database else None


def digest(text: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(text.encode()).digest()


def find(tokens: Iterable[Token], text: str) -> Token | None:
    """The token that a text is; how long the search takes tells nothing of any."""
    wanted = digest(text)
    match = None
    for token in tokens:
        if hmac.compare_digest(token.digest, wanted):
            match = token
    return match


def _token(row: sa.Row[tuple[str, bytes, str, int, int, int]]) -> Token:
    return Token(row.name, row.digest, Scope(row.scope), row.created, row.expires, row.revoked)


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidValueError(f"name must match {NAME_PATTERN}, got {name!r}", field="name", value=name)


def _taken(name: str) -> BssError:
    return ConflictError(f"token {name!r} is there already: revoke it first, or take another name", field="name")
