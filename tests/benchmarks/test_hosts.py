"""Hosts that are network namespaces: names and addresses of their own, a way to one another, nothing left behind."""

import subprocess
import sys
import time

import pytest
from minires.benchmarks import hosts
from minires.benchmarks.hosts import Hosts

LISTEN = """
import socket, sys
with socket.create_server(("", 7000)) as server:
    server.settimeout(20)
    connection, _ = server.accept()
    with connection, connection.makefile("rb") as file:
        print(socket.gethostname(), len(file.read()), flush=True)
"""
SEND = """
import socket, time
began = time.monotonic()
while True:
    try:
        with socket.create_connection(("10.77.0.2", 7000), 5) as connection:
            connection.sendall(bytes(4_000_000))
        break
    except OSError:
        assert time.monotonic() - began < 20
        time.sleep(0.1)
"""


@pytest.fixture(scope="module", autouse=True)
def possible():
    if reason := hosts.reason_against():
        pytest.skip(reason)


def on(made, host, code):
    command = [made.launcher, f"10.77.0.{host}", sys.executable, "-c", f"'{code}'"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_hosts_speak_over_their_links_at_a_rate():
    with Hosts(2, gbit=0.05) as made:
        began = time.monotonic()
        told, sending = on(made, 2, LISTEN), on(made, 1, SEND)
        assert told.communicate(timeout=60)[0].split() == ["host2", "4000000"]
        assert sending.wait(30) == 0
        assert time.monotonic() - began > 4e6 * 8 / 0.05e9 * 0.9, "4 MB at 50 Mbit/s take 0.64 s at least"
        assert made.sent(1) > 4e6


def test_a_host_is_cut_off():
    with Hosts(2) as made:
        made.cut_off(2)
        connect = 'import socket; socket.create_connection(("10.77.0.2", 7000), 1)'
        assert on(made, 1, connect).wait(30) != 0
        assert made.sent(2) < 10_000


def test_nothing_is_left_after_a_failure():
    made = Hosts(2, gbit=1)

    def fails():
        with made:
            started.append(on(made, 2, "import time; time.sleep(600)"))
            while not made.processes(2):
                time.sleep(0.05)
            raise ZeroDivisionError

    started = []
    with pytest.raises(ZeroDivisionError):
        fails()
    assert started[0].wait(20) != 0
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert made.prefix not in names
    assert not made.launcher.exists()
