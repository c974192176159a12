"""The tables of a store, and how those of an older version become those of this one."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import sqlalchemy as sa
import structlog

from bss_service.errors import StoreError
from bss_service.job.job import new_incarnation
from bss_service.journal.engine import begin_change

VERSION: Final = 6
UNPROVEN: Final = -1  # the checksum of a row that was damaged already when it was migrated: no CRC-32 is negative
BATCH: Final = 500  # keys held in memory at once by a migration

log = structlog.get_logger()

metadata = sa.MetaData()
_Name = sa.String(100).with_variant(sa.String(100, collation="C"), "postgresql")  # in the order of its bytes
meta = sa.Table("meta", metadata, sa.Column("schema_version", sa.Integer, nullable=False))
writer = sa.Table("writer", metadata, sa.Column("token", sa.String(32), nullable=False))  # of the one that may write
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("job", _Name, primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("incarnation", sa.String(32), nullable=False),
    sa.Column("checksum", sa.BigInteger, nullable=False),
)
journal = sa.Table(
    "journal",
    metadata,
    sa.Column("job", _Name, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("checksum", sa.BigInteger, nullable=False),
)
plans = sa.Table(
    "plans",
    metadata,
    sa.Column("job", _Name, primary_key=True),
    sa.Column("first_step", sa.BigInteger, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),  # empty where it is in pieces
    sa.Column("checksum", sa.BigInteger, nullable=False),  # of the whole body
    sa.Column("write", sa.String(32), nullable=False, server_default=""),  # of its pieces
)
plan_pieces = sa.Table(  # those that no plan refers to are of a transaction that did not come to its end
    "plan_pieces",
    metadata,
    sa.Column("job", _Name, primary_key=True),
    sa.Column("first_step", sa.BigInteger, primary_key=True),
    sa.Column("write", sa.String(32), primary_key=True),
    sa.Column("piece", sa.Integer, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("job", _Name, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),  # journal entries up to this one are in it
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("parts", sa.Integer, nullable=False),  # that it has; one with fewer is still being written
    sa.Column("checksum", sa.BigInteger, nullable=False),
    sa.Column("first_step", sa.BigInteger, nullable=False, server_default="-1"),  # of its plans; -1: not known
    sa.Column("base", sa.Integer, nullable=False, server_default="0"),  # 1: the journal begins behind it
)
damaged = sa.Table(  # journal entries that a recovery has set aside, for whoever wants to look at them
    "damaged",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("job", _Name, nullable=False, index=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("checksum", sa.BigInteger, nullable=False),
)
descriptions = sa.Table(  # of samples, for people
    "descriptions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("job", _Name, nullable=False),
    sa.Column("sample", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("job", "sample"),
)
decisions = sa.Table(  # those that are not in memory any more, a block of them in a row
    "decisions",
    metadata,
    sa.Column("job", _Name, primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True),  # number of the first
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("checksum", sa.BigInteger, nullable=False),
)
artefacts = sa.Table(
    "artefacts",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("name", _Name, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
OF_A_JOB: Final = (jobs, journal, plans, plan_pieces, snapshots, damaged, descriptions, decisions)


def checksum(body: bytes | str, *key: str | int) -> int:
    """CRC-32 of a row's content and of what identifies it, so that a row in another's place is noticed too."""
    content = body.encode() if isinstance(body, str) else body
    return zlib.crc32(content, zlib.crc32("\0".join(map(str, key)).encode()))


def prepare(engine: sa.Engine, before_migrating: Callable[[sa.Connection], None]) -> None:
    """Make the tables, or bring older ones to this version; all of it or nothing. Raises StoreError."""
    with engine.connect() as connection:
        begin_change(connection)  # else SQLite's driver would commit each change of a table
        version = _version(connection)
        if version is not None and version not in (*_MIGRATIONS, VERSION):
            raise StoreError(f"the store has schema version {version}, this service needs {VERSION}")
        if version is not None and version < VERSION:
            before_migrating(connection)
            log.info("store of an older version: migrating", version=version, to=VERSION)
        while version is not None and version < VERSION:
            _MIGRATIONS[version](connection)
            version += 1
            connection.execute(meta.update().values(schema_version=version))
        metadata.create_all(connection)
        if version is None:
            connection.execute(meta.insert().values(schema_version=VERSION))
        else:
            connection.execute(meta.update().values(schema_version=VERSION))  # or the file may only be read
        connection.commit()


def _version(connection: sa.Connection) -> int | None:
    """The version of the store; None if it is empty."""
    if not sa.inspect(connection).has_table("meta"):
        return None
    version: int | None = connection.scalar(sa.select(meta.c.schema_version))
    return version


def _add_checksums(connection: sa.Connection) -> None:
    """Version 1 had them for journal entries alone, and of their bodies alone."""
    for table, columns in (("jobs", ["checksum"]), ("plans", ["checksum"]), ("snapshots", ["parts", "checksum"])):
        for column in columns:
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column} BIGINT NOT NULL DEFAULT 0")
    for row in _rows(connection, jobs, jobs.c.spec):
        _set(connection, jobs, row, checksum=checksum(row.spec, row.job))
    for row in _rows(connection, plans, plans.c.body):
        _set(connection, plans, row, checksum=checksum(row.body, row.job, row.first_step))
    for row in _rows(connection, snapshots, snapshots.c.body):
        of_it = (snapshots.c.job == row.job) & (snapshots.c.seq == row.seq)
        parts = connection.scalar(sa.select(sa.func.count()).select_from(snapshots).where(of_it))
        computed = checksum(row.body, row.job, row.seq, row.part, parts or 0)
        _set(connection, snapshots, row, parts=parts, checksum=computed)
    for row in _rows(connection, journal, journal.c.kind, journal.c.body, journal.c.checksum):
        whole = zlib.crc32(row.body) == row.checksum
        computed = checksum(row.body, row.job, row.seq, row.kind) if whole else UNPROVEN
        _set(connection, journal, row, checksum=computed)


def _add_incarnations(connection: sa.Connection) -> None:
    """Version 2 knew a job by its name alone."""
    connection.exec_driver_sql("ALTER TABLE jobs ADD COLUMN incarnation VARCHAR(32) NOT NULL DEFAULT ''")
    for row in _rows(connection, jobs, jobs.c.spec, jobs.c.checksum):
        incarnation, whole = new_incarnation(), checksum(row.spec, row.job) == row.checksum
        computed = checksum(row.spec, row.job, incarnation) if whole else UNPROVEN
        _set(connection, jobs, row, incarnation=incarnation, checksum=computed)


def _add_pieces(connection: sa.Connection) -> None:
    """Version 3 had each plan in one row."""
    connection.exec_driver_sql("ALTER TABLE plans ADD COLUMN write VARCHAR(32) NOT NULL DEFAULT ''")


def _add_descriptions(connection: sa.Connection) -> None:
    """Version 4 had none; a service that knows no such table would leave a deleted job's to the next of its name."""
    descriptions.create(connection)


def _add_decisions(connection: sa.Connection) -> None:
    """Version 5 had all decisions in snapshots, which a job lets go of when it plans next, and kept journals whole."""
    decisions.create(connection)
    connection.exec_driver_sql("ALTER TABLE snapshots ADD COLUMN first_step BIGINT NOT NULL DEFAULT -1")
    connection.exec_driver_sql("ALTER TABLE snapshots ADD COLUMN base INTEGER NOT NULL DEFAULT 0")


_MIGRATIONS: Final = {
    1: _add_checksums,
    2: _add_incarnations,
    3: _add_pieces,
    4: _add_descriptions,
    5: _add_decisions,
}


def _rows(connection: sa.Connection, table: sa.Table, *columns: sa.Column[Any]) -> Iterator[Any]:
    """All rows in order of their keys, one at a time: they may be large, and they may be changed meanwhile."""
    keys = list(table.primary_key.columns)
    query = sa.select(*keys).order_by(*keys).limit(BATCH)
    batch = connection.execute(query).all()
    while batch:
        for key in batch:
            yield connection.execute(sa.select(*keys, *columns).where(*_is(table, key))).one()
        behind = sa.tuple_(*keys) > sa.tuple_(*(sa.literal(value) for value in batch[-1]))
        batch = connection.execute(query.where(behind)).all()


def _set(connection: sa.Connection, table: sa.Table, row: Any, **values: Any) -> None:
    connection.execute(table.update().where(*_is(table, row)).values(values))


def _is(table: sa.Table, row: Any) -> list[sa.ColumnElement[bool]]:
    return [column == getattr(row, column.name) for column in table.primary_key.columns]
