"""TensorBoard: event files in a folder of the job's."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bss_cli.following.points import Point, library

EXTRA: Final = "tensorboard"
TEXT: Final = "/text_summary"  # as torch and TensorFlow call the texts of a tag


class TensorBoardTracker:
    """Writes DIR/JOB. What is there already is read back from the event files; one cut off by a crash is no harm."""

    def __init__(self, directory: str, job: str) -> None:
        self._folder = str(Path(directory) / job)
        self._summary = library("tensorboard.compat.proto.summary_pb2", EXTRA)
        self._tensor = library("tensorboard.compat.proto.tensor_pb2", EXTRA)
        self._event = library("tensorboard.compat.proto.event_pb2", EXTRA)
        self._text = library("tensorboard.plugins.text.metadata", EXTRA)
        self._reader = library("tensorboard.backend.event_processing.event_accumulator", EXTRA)
        self._writing = library("tensorboard.summary.writer.event_file_writer", EXTRA)
        self._writer = self._writing.EventFileWriter(self._folder)

    def latest(self) -> Mapping[str, int]:
        """The step of the last point of each curve that is there."""
        events = self._reader.EventAccumulator(self._folder, size_guidance={self._reader.SCALARS: 1})
        events.Reload()
        return {curve: max(e.step for e in events.Scalars(curve)) for curve in events.Tags()["scalars"]}

    def write(self, points: Sequence[Point]) -> None:
        """Add points, in order of step."""
        for point in points:
            self._add(point, self._summary.Summary.Value(tag=point.curve, simple_value=point.value))
            if point.text is not None:
                tensor = self._tensor.TensorProto(dtype=7, string_val=[point.text.encode()])  # DT_STRING
                tensor.tensor_shape.dim.add(size=1)
                metadata = self._text.create_summary_metadata(display_name=point.curve, description="")
                tag = point.curve + TEXT
                self._add(point, self._summary.Summary.Value(tag=tag, metadata=metadata, tensor=tensor))
        self._writer.flush()

    def close(self) -> None:
        """Have all that was written stored."""
        self._writer.close()

    def _add(self, point: Point, value: object) -> None:
        summary = self._summary.Summary(value=[value])
        self._writer.add_event(self._event.Event(wall_time=time.time(), step=point.step, summary=summary))
