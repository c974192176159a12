"""What trainers tell of samples for people to see: texts, and pictures that the service itself makes files of.

A trainer sends pixels and never a file, so nothing is stored or served that a browser could take for more than a
picture, and nobody's file is parsed here.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import sqlalchemy as sa

from bss_service.core.arrays import UInt8
from bss_service.journal.schema import descriptions
from bss_service.protocol.samples import MAX_DESCRIBED, DescriptionRow

MEDIA_TYPES: Final = {"text": "text/plain; charset=utf-8", "picture": "image/png"}
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Description:
    """What one sample shows."""

    sample: int
    kind: Literal["text", "picture"]
    body: bytes  # UTF-8, or a PNG file


def png(pixels: UInt8) -> bytes:
    """A PNG file of pixels (h, w, 3)."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # 0: not filtered
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits of red, green and blue
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, body) for name, body in parts)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def put(connection: sa.Connection, job: str, told: Sequence[Description]) -> None:
    """Store descriptions in place of earlier ones of the same samples; of too many, the earliest go."""
    samples = [one.sample for one in told]
    of_job = descriptions.c.job == job
    connection.execute(descriptions.delete().where(of_job, descriptions.c.sample.in_(samples)))
    rows = [{"job": job, "sample": one.sample, "kind": one.kind, "body": one.body} for one in told]
    connection.execute(descriptions.insert(), rows)
    oldest_kept = (
        sa.select(descriptions.c.id)
        .where(of_job)
        .order_by(descriptions.c.id.desc())
        .offset(MAX_DESCRIBED - 1)
        .limit(1)
        .scalar_subquery()
    )
    connection.execute(descriptions.delete().where(of_job, descriptions.c.id < oldest_kept))


def read_rows(connection: sa.Connection, job: str) -> list[DescriptionRow]:
    """Which samples of a job are described, by index."""
    columns = (descriptions.c.sample, descriptions.c.kind)
    query = sa.select(*columns).where(descriptions.c.job == job).order_by(descriptions.c.sample)
    return [DescriptionRow(index=row.sample, kind=row.kind) for row in connection.execute(query)]


def read(connection: sa.Connection, job: str, sample: int) -> Description | None:
    """What a sample shows; None where nobody told."""
    query = sa.select(descriptions).where(descriptions.c.job == job, descriptions.c.sample == sample)
    row = connection.execute(query).one_or_none()
    return None if row is None else Description(row.sample, row.kind, row.body)
