"""A run's history for other programs: `history.csv` for spreadsheets, event files for TensorBoard.

Both are written from the history in the checkpoint, so that a run which was stopped, killed and resumed has each epoch
once.
"""

import csv
import math
import time
from contextlib import contextmanager
from pathlib import Path

from minires.errors import ConfigError
from minires.files import atomic_path
from minires.train.progress import Progress, Reporter


class CsvLog(Reporter):
    """`history.csv` in the run's folder: the columns of `history.jsonl`, a line an epoch."""

    def save(self, out: Path, progress: Progress):
        path, rows = out / "history.csv", progress.history
        if not rows:
            path.unlink(missing_ok=True)  # an earlier run's
            return
        columns = dict.fromkeys(name for row in rows for name in row)
        with atomic_path(path, lasting=False) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(rows)


class TensorBoardLog(Reporter):
    """Event files in `tensorboard/` of the run's folder: `tensorboard --logdir runs` shows them while it trains.

    The file is written anew where a run goes on, from its first epoch; after that it grows, which is what TensorBoard
    follows. ConfigError without the package tensorboardX.
    """

    def __init__(self):
        try:
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2
        except ImportError as error:
            raise ConfigError(
                f"the log tensorboard needs the package tensorboardX ({error}): pip install 'minires[tensorboard]'"
            ) from None
        self.open, self.event, self.scalar = event_file_writer.EventsWriter, event_pb2.Event, summary.scalar
        self.writer, self.written = None, 0

    @contextmanager
    def running(self, epochs, steps, progress):
        try:
            yield
        finally:
            if self.writer:
                self.writer.close()
                self.writer = None

    def save(self, out, progress):
        if self.writer is None:
            folder = out / "tensorboard"
            folder.mkdir(parents=True, exist_ok=True)
            for earlier in folder.glob("events.out.tfevents.*"):
                earlier.unlink()
            self.writer, self.written = self.open(str(folder / "events")), 0
        rows = progress.history
        for i in range(self.written, len(rows)):
            ended = time.time() - sum(row["seconds"] for row in rows[i + 1 :])
            for name, value in rows[i].items():
                if name != "epoch" and math.isfinite(value):
                    told = self.scalar(_tag(name), value)
                    self.writer.write_event(self.event(wall_time=ended, step=rows[i]["epoch"], summary=told))
        self.written = len(rows)
        self.writer.flush()


def _tag(name: str) -> str:
    """'test_loss' -> 'loss/test', so that TensorBoard draws training and test below one heading."""
    part, _, what = name.partition("_")
    return f"{what}/{part}" if part in ("train", "validation", "test") else name


LOGS = {"csv": CsvLog, "tensorboard": TensorBoardLog}


def known_logs(names) -> list[str]:
    """The names, each once; ConfigError for one that is none of LOGS."""
    if unknown := [name for name in names if name not in LOGS]:
        raise ConfigError(f"unknown log {unknown[0]!r}: choose of {', '.join(LOGS)}, separated by commas")
    return list(dict.fromkeys(names))


def make_logs(names) -> list[Reporter]:
    """The logs of these names; ConfigError for a name that is none, or where its package is missing."""
    return [LOGS[name]() for name in known_logs(names)]
