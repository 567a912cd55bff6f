"""Download of the public Sign Language Digits photographs: resumed, verified, and unpacked safely.

Sign Language Digits Dataset, Turkey Ankara Ayranci Anadolu High School, Zeynep Dikle and Arda Mavi,
Apache License 2.0; cite A. Mavi, arXiv:2011.08927.
"""

import os
import re
import shutil
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import pooch
import requests
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from minires.console import Console
from minires.data.folder import content_hash
from minires.errors import DataError

_COMMIT = "4b09433ef9d5c60602e8805bb54b8aa2428527f8"
DIGITS_URL = f"https://github.com/ardamavi/Sign-Language-Digits-Dataset/archive/{_COMMIT}.zip"
# an archive made on demand need not have the same bytes each time, so the photographs are what is checked
DIGITS_SHA256 = "30d0ee3c8599928f6f98281a33826ca56fa9382069785bea8716221a344b606f"
_MEMBER = re.compile(r"[^/]+/Dataset/([0-9])/([^/\\:]+\.JPG)")
_ATTEMPTS = 3
_BLOCK = 65536


def fetch_digits(
    target_dir: str | os.PathLike,
    *,
    url: str = DIGITS_URL,
    progress: bool = True,
    sha256: str = DIGITS_SHA256,
    timeout: float = 30.0,
) -> Path:
    """Download the ten classes of photographs to `target_dir/0..9/*.JPG`; returns that folder.

    Photographs that are there already are verified, not loaded again. An interrupted download goes on
    where it stopped, at the next call too: its parts wait in `<target_dir>.download`. The folder appears
    only when its content has been verified: `sha256` is the `content_hash` of its files, sorted by class
    and name. `timeout` in seconds is for one answer of the server.

    Raises DataError, with what to do by hand, for no network, an error of the server, content that is not
    the expected, a target folder that holds something else, and a disk that is full or not writable.
    """
    target = Path(target_dir)
    by_hand = f"or download {url} by hand and unpack its folder Dataset to {target}"
    if target.is_dir() and any(target.iterdir()):
        if _photographs_hash(target) == sha256:
            return target
        raise DataError(f"{target}: expected no folder, or the photographs, got other files: choose another folder")
    workplace = target.with_name(target.name + ".download")
    archive, unpacked = workplace / "archive.zip", workplace / "unpacked"
    try:
        workplace.mkdir(parents=True, exist_ok=True)
        pooch.get_logger().setLevel("WARNING")  # it would print a hash that says nothing here
        pooch.retrieve(url, None, fname=archive.name, path=workplace, downloader=_Downloader(progress, timeout))
        shutil.rmtree(unpacked, ignore_errors=True)
        _unpack(archive, unpacked)
        if _photographs_hash(unpacked) != sha256:
            raise zipfile.BadZipFile("it holds other photographs, or not all")
        if target.is_dir():
            target.rmdir()  # empty, as checked above
        os.replace(unpacked, target)
        shutil.rmtree(workplace, ignore_errors=True)
    except zipfile.BadZipFile as error:
        archive.unlink(missing_ok=True)  # so that the next call starts anew
        raise DataError(
            f"{url}: expected the archive of the photographs, got something else ({error}): try again, {by_hand}"
        ) from None
    except requests.HTTPError as error:
        raise DataError(
            f"{url}: the server answers {error.response.status_code} {error.response.reason}: "
            f"check the address, {by_hand}"
        ) from None
    except requests.RequestException as error:
        raise DataError(
            f"{url}: the download broke off ({type(error).__name__}): check the network and call again "
            f"to go on where it stopped, {by_hand}"
        ) from None
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error.strerror or error}): free some space or choose another folder"
        ) from None
    finally:
        with suppress(OSError):
            workplace.rmdir()  # stays only with something to go on from
    return target


def _photographs_hash(folder: Path) -> str:
    return content_hash(folder, sorted(p.relative_to(folder).as_posix() for p in folder.glob("[0-9]/*.JPG")))


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the photographs alone; the names written are made here, so none can lead out of `folder`."""
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            match = _MEMBER.fullmatch(member.filename)
            if match:
                place = folder / match[1]
                place.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, (place / match[2]).open("wb") as copy:
                    shutil.copyfileobj(source, copy)


class _Downloader:
    """Downloader for pooch that keeps what has come in `archive.part` and asks for the rest only."""

    def __init__(self, progress: bool, timeout: float):
        self.progress, self.timeout = progress, timeout

    def __call__(self, url: str, output_file: str, _pooch) -> None:
        # pooch's own file is temporary and new at each call, this one stays
        part = Path(output_file).parent / "archive.part"
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._continue(url, part)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                if attempt == _ATTEMPTS:
                    raise
        os.replace(part, output_file)

    def _continue(self, url: str, part: Path) -> None:
        have = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            if response.status_code == 416:  # nothing after what we have: it is of no use
                part.unlink()
                raise requests.ConnectionError("the part kept does not fit the file")
            response.raise_for_status()
            if response.status_code != 206:
                have = 0  # the server sends all from the start
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            with part.open("ab" if have else "wb") as file, _Meter(self.progress, have, total) as meter:
                for block in response.iter_content(_BLOCK):
                    file.write(block)
                    meter.add(len(block))


class _Meter:
    """Progress of a download on stderr: a bar in a terminal, else a line every 10 megabytes and at the end."""

    def __init__(self, shown: bool, done: int, total: int | None):
        self.done, self.total, self._next = done, total, done
        self._lines = shown and not sys.stderr.isatty()
        self._bar = None
        if shown and not self._lines:
            columns = TextColumn("downloading"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> "_Meter":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._bar:
            self._bar.stop()
        elif self._lines:
            self._print()

    def add(self, count: int) -> None:
        self.done += count
        if self._bar:
            self._bar.update(self._task, completed=self.done)
        elif self._lines and self.done >= self._next:
            self._print()
            self._next = self.done + 10_000_000

    def _print(self) -> None:
        total = f" of {self.total / 1e6:.1f}" if self.total else ""
        print(f"downloading: {self.done / 1e6:.1f}{total} MB", file=sys.stderr)
