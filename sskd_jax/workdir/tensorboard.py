"""TensorBoard files: the rows of metrics.jsonl as curves, with one TensorBoard run per stage.

A tag is just the name of a figure, so that the stages of several methods share a chart.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from etils import epath

from sskd_jax.system.paths import is_remote
from sskd_jax.system.quiet import import_tensorflow
from sskd_jax.workdir.files import Row

FILE = "events.out.tfevents.sskd_jax"  # TensorBoard looks for "tfevents"


class Writer(Protocol):
    """The methods of `clu.metric_writers.MetricWriter` that are used here."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class DiskWriter:
    """Writes an event file on a disk with tensorboardX, which needs no TensorFlow.

    It uses only tensorboardX's records, not its SummaryWriter, which writes in a thread, so that
    its errors would be lost.
    """

    def __init__(self, folder: epath.Path):
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        self.file = RecordWriter(str(folder / FILE))
        self._write(file_version="brain.Event:2")
        # This tells a running TensorBoard to forget what an earlier start wrote.
        self._write(session_log=SessionLog(status=SessionLog.START))

    def _write(self, **content: object) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self.file.write(Event(wall_time=time.time(), **content).SerializeToString())

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(step=step, summary=Summary(value=values))

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class Charts:
    """The TensorBoard files in a folder; that of the stage which is being trained is open.

    They have the content of metrics.jsonl: when a stage is resumed, its file is rewritten from the
    remaining rows, so that no row is in it twice.
    """

    def __init__(self, folder: epath.Path):
        self.folder = folder
        self.stage, self.writer = "", None

    def write(self, rows: Sequence[Row]) -> None:
        """Writes the last of a stage's rows, after any others that its file does not have yet."""
        stage = rows[-1]["stage"]
        missing = rows[-1:]
        if stage != self.stage:
            self.close()
            self.stage, self.writer = stage, open_writer(self.folder / stage)
            missing = rows
        for row in missing:
            figures = {name: value for name, value in row.items() if isinstance(value, float)}
            self.writer.write_scalars(row["step"], figures)
        self.writer.flush()

    def close(self) -> None:
        """Closes the open file; the next row starts a new one."""
        if self.writer:
            self.writer.close()
        self.stage, self.writer = "", None


def open_writer(folder: epath.Path) -> Writer:
    """A writer of a new file in a folder, in place of the one that is there."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return DiskWriter(folder)
    folder.rmtree(missing_ok=True)
    folder.mkdir(parents=True)
    # clu writes through TensorFlow, which reaches buckets.
    import_tensorflow()
    from clu.metric_writers import SummaryWriter

    return SummaryWriter(str(folder))
