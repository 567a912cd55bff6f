"""A run's folder as one thing: one writer at a time, and files that belong together.

`model.h5` is the truth, and is replaced as a whole. It says which epoch is the best and holds the history, so that
whatever a killed or failed save left of the other files is put right from it: a better epoch is `model.h5` first,
then `best.h5`, and in between the one is what the other should be.
"""

import json
import os
import shutil
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from minires.errors import CheckpointError
from minires.files import atomic_path, refused
from minires.train.checkpoint import Snapshot, last_is_best, read_header
from minires.train.watch import state

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "run.lock"

_held: dict = {}  # (folder, thread) -> the open lock


def _forget():
    """In a forked child: the lock is its parent's, and must not outlive the parent in it."""
    for file in _held.values():
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def locked(folder: Path):
    """Inside, this thread alone trains into `folder`, which is made. CheckpointError, naming who, where another does.

    A lock of the system (flock) on a file that says whose it is: it ends with its process, however that ends, and the
    file left behind is taken over. The same thread may enter again.
    """
    folder = Path(folder)
    key = os.path.realpath(folder), threading.get_ident()
    if key in _held:
        yield
        return
    with _writable(folder):
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        _held[key] = _lock(folder)
    try:
        yield
    finally:
        if file := _held.pop(key, None):  # None in a forked child
            with suppress(OSError):
                (folder / LOCK).unlink()  # before it is given up: whoever opened it meanwhile sees that it is gone
            file.close()
            with suppress(OSError):
                if made:
                    folder.rmdir()  # nothing was written


@contextmanager
def _writable(folder):
    """What the system refuses inside names the folder."""
    try:
        yield
    except OSError as error:
        raise refused(error.errno, folder, "written") from None


def _lock(folder):
    path = folder / LOCK
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(folder, file) from None
        except (OSError, AttributeError):  # a file system, or a system, without such locks
            if _lives(_holder(file)):
                raise _taken(folder, file) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # the one before removed it as this one opened it
    file.truncate(0)
    me = {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}
    file.write(json.dumps(me | {"thread": threading.current_thread().name, "since": time.strftime("%Y-%m-%d %H:%M")}))
    file.flush()
    return file


def _holder(file) -> dict:
    file.seek(0)
    try:
        return dict(json.loads(file.read()))
    except (ValueError, TypeError):
        return {}


def _started(pid) -> str:
    """When a process began, in the kernel's ticks: another process may have its number now."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _lives(who) -> bool:
    return bool(who) and (who["host"] != socket.gethostname() or _started(who["pid"]) == who["started"])


def _taken(folder, file) -> CheckpointError:
    with file:
        for _ in range(20):
            if who := _holder(file):
                break
            time.sleep(0.05)  # it is being written
    if not who:
        return CheckpointError(f"{folder}: another training has just begun in it: choose another folder")
    here = who["host"] == socket.gethostname()
    name = f"process {who['pid']}" + ("" if here else f" on {who['host']}")
    if here and who["pid"] == os.getpid():
        name = f"the thread {who['thread']} of this process"
    doing = state(f"/proc/{who['pid']}/stat") if here else ""
    remedy = f"let it go on with kill -CONT {who['pid']}" if doing == "stopped" else "wait for it, stop it"
    return CheckpointError(
        f"{folder}: {name} trains in it since {who['since']}{' and is stopped' if doing == 'stopped' else ''}: "
        f"{remedy}, or choose another folder ({LOCK} there says who it is)"
    )


def commit(folder: Path, snapshot: Snapshot, better: bool) -> None:
    """Write what `snapshot` holds; `better`: it is the best epoch so far."""
    snapshot.write(folder / "model.h5")
    progress = snapshot.header["training"]["progress"]
    if better:
        _keep(folder / "model.h5", folder / "best.h5")
    _write_history(folder, progress["history"])


def settle(folder: Path, progress) -> None:
    """Make the other files agree with `model.h5`, of that progress, and remove what killed writes left.

    CheckpointError where `best.h5` is another epoch's than it should be and `model.h5` is not that epoch either.
    """
    model, best = folder / "model.h5", folder / "best.h5"
    remains = [*folder.glob(".*.tmp"), *folder.glob("pictures/.*.tmp"), folder / "best.part"]
    with _writable(folder):
        for path in remains if progress.best_epoch else (*remains, best):
            path.unlink(missing_ok=True)
    if last_is_best(vars(progress)):
        _keep(model, best)
    elif best.exists() and (epoch := read_header(best)["training"]["progress"]["epoch"]) != progress.best_epoch:
        raise CheckpointError(
            f"{best}: holds epoch {epoch}, but epoch {progress.best_epoch} was the best according to {model.name}: "
            "put that run's own file there, or remove it"
        )
    _write_history(folder, progress.history)


def _write_history(folder, rows):
    path = folder / "history.jsonl"
    if rows:
        with atomic_path(path, lasting=False) as temporary:  # it is in model.h5 too
            temporary.write_text("".join(json.dumps(r) + "\n" for r in rows))
    else:
        path.unlink(missing_ok=True)  # an earlier run's


def _keep(source: Path, target: Path) -> None:
    """`target` becomes today's `source`; a link costs nothing, and `source` is replaced, never rewritten."""
    part = target.with_suffix(".part")
    try:
        part.unlink(missing_ok=True)
        part.hardlink_to(source)
        part.replace(target)
        part.unlink(missing_ok=True)  # it stays where both were the same file already
    except OSError:  # a file system without links, or what `atomic_path` has words for
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
