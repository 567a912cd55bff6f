"""The download, against a server on this machine: resumed, verified, atomic, and clear when it fails."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from data_helpers import assert_one_line

from minires.data import fetch_digits
from minires.data.fetch import DIGITS_SHA256, DIGITS_URL
from minires.errors import DataError

PHOTOS = {
    f"{label}/IMG_{i}.JPG": np.random.default_rng([label, i]).bytes(20_000) for label in range(10) for i in (1, 10, 2)
}
OTHERS = {
    "Repo-abc/README.md": b"text",
    "Repo-abc/Dataset/notes.txt": b"text",
    "Repo-abc/Dataset/11/IMG_1.JPG": b"no class",
    "Repo-abc/Dataset/1/deeper/IMG_1.JPG": b"too deep",
    "../Dataset/1/IMG_1.JPG/../../../evil.JPG": b"evil",
    "/abs/Dataset/1/evil.JPG": b"evil",
    "Repo-abc/Dataset/1/..\\evil.JPG": b"evil",
}


def archive(photos=PHOTOS):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name, data in OTHERS.items():
            opened.writestr(name, data)
        for name, data in photos.items():
            opened.writestr(f"Repo-abc/Dataset/{name}", data)
    return content.getvalue()


ARCHIVE = archive()
SHA256 = hashlib.sha256(
    "".join(f"{hashlib.sha256(PHOTOS[name]).hexdigest()}  {name}\n" for name in sorted(PHOTOS)).encode()
).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`; breaks off after as many bytes as `breaks` says for each request in turn."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.status, self.breaks, self.requests = ARCHIVE, True, 200, [], []
        self.url = f"http://127.0.0.1:{self.server_port}/photos.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if first >= len(server.content):
            self.send_error(416)
            return
        body = server.content[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server, target, **options):
    return fetch_digits(target, **{"url": server.url, "sha256": SHA256, "progress": False, "timeout": 5, **options})


def files_under(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_photographs_and_nothing_else(server, tmp_path):
    target = tmp_path / "deep" / "digits"
    assert fetch(server, target) == target
    assert files_under(tmp_path) == {f"deep/digits/{name}": data for name, data in PHOTOS.items()}
    assert len(server.requests) == 1
    fetch(server, target)  # verified, not loaded again
    assert len(server.requests) == 1


def test_empty_target_folder_is_filled(server, tmp_path):
    (tmp_path / "digits").mkdir()
    assert files_under(fetch(server, tmp_path / "digits")) == PHOTOS


@pytest.mark.parametrize("ranges", [True, False])
def test_broken_connection_is_resumed(server, tmp_path, ranges, capsys):
    server.ranges, server.breaks = ranges, [200_000, 100_000]
    assert files_under(fetch(server, tmp_path / "digits", progress=True)) == PHOTOS
    assert f"{len(ARCHIVE) / 1e6:.1f} of {len(ARCHIVE) / 1e6:.1f} MB" in capsys.readouterr().err
    assert server.requests[0] is None
    assert len(server.requests) == 3
    asked = [int(request.removeprefix("bytes=")[:-1]) for request in server.requests[1:]]
    assert 0 < asked[0] <= 200_000
    if ranges:
        assert asked[0] < asked[1] <= 300_000


def test_interrupted_download_goes_on_at_the_next_call(server, tmp_path):
    server.breaks = [150_000, 0, 0]
    with pytest.raises(DataError) as error:
        fetch(server, tmp_path / "digits")
    assert_one_line(error, server.url, "broke off", "call again", "by hand", tmp_path / "digits")
    assert not (tmp_path / "digits").exists()
    server.requests.clear()
    assert files_under(fetch(server, tmp_path / "digits")) == PHOTOS
    assert len(server.requests) == 1
    assert int(server.requests[0].removeprefix("bytes=")[:-1]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_a_part_that_is_too_long_is_dropped(server, tmp_path):
    workplace = tmp_path / "digits.download"
    workplace.mkdir()
    (workplace / "archive.part").write_bytes(bytes(len(ARCHIVE) + 5))
    assert files_under(fetch(server, tmp_path / "digits")) == PHOTOS
    assert server.requests[1] is None


def changed_photo():
    return archive(PHOTOS | {"3/IMG_1.JPG": b"another"})


@pytest.mark.parametrize(
    "content",
    [b"<html>log in</html>", ARCHIVE[:-3000], changed_photo(), archive({})],
    ids=["page", "cut", "changed", "none"],
)
def test_wrong_content(server, tmp_path, content):
    server.content = content
    with pytest.raises(DataError) as error:
        fetch(server, tmp_path / "digits")
    assert_one_line(error, server.url, "something else", "by hand", tmp_path / "digits")
    assert not (tmp_path / "digits").exists()
    server.content = ARCHIVE  # the bad archive is not kept
    assert files_under(fetch(server, tmp_path / "digits")) == PHOTOS


@pytest.mark.parametrize("status", [404, 503])
def test_error_of_the_server(server, tmp_path, status):
    server.status = status
    with pytest.raises(DataError) as error:
        fetch(server, tmp_path / "digits")
    assert_one_line(error, server.url, status, "by hand")
    assert not list(tmp_path.iterdir())


def test_no_network(tmp_path):
    with Server() as closed:
        url = closed.url
    with pytest.raises(DataError) as error:
        fetch_digits(tmp_path / "digits", url=url, progress=False)
    assert_one_line(error, url, "ConnectionError", "check the network", "by hand")


def test_folder_with_something_else(server, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(DataError) as error:
        fetch(server, tmp_path)
    assert_one_line(error, tmp_path, "other files", "another folder")
    assert (tmp_path / "mine.txt").read_text() == "keep me"
    assert not server.requests


def test_place_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError) as error:
        fetch(server, tmp_path / "file" / "digits")
    assert_one_line(error, tmp_path / "file" / "digits", "cannot be written")


def test_progress_is_plain_lines_where_there_is_no_terminal(server, tmp_path, capsys):
    fetch(server, tmp_path / "digits", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f"downloading: {len(ARCHIVE) / 1e6:.1f} of {len(ARCHIVE) / 1e6:.1f} MB"
    fetch(server, tmp_path / "again", progress=False)
    assert capsys.readouterr().err == ""


def test_progress_is_a_bar_in_a_terminal(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    fetch(server, tmp_path / "digits", progress=True)
    captured = capsys.readouterr()
    assert "MB" in captured.err or "kB" in captured.err
    assert "\x1b[" in captured.err
    assert captured.out == ""


def test_defaults_name_one_commit():
    assert "4b09433ef9d5c60602e8805bb54b8aa2428527f8" in DIGITS_URL
    assert len(DIGITS_SHA256) == 64
