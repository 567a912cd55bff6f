"""Hosts that are network namespaces of this machine, joined by a switch, each with an address and a name of its own.

    with Hosts(3, gbit=0.5) as hosts:
        hosts.start([1, 2, 3], "minires", "train", ...)

They share disk, cores and programs; between them there is TCP and nothing else, over links whose rate `tc` may limit.
Needs root (`reason_against`). All of it is gone at the end, also after a failure.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

MPIEXEC = Path(sys.executable).with_name("mpiexec")
# MPICH's launcher calls it as `ssh -x HOST COMMAND...`; who asks for its name in there gets one of this host
LAUNCHER = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=${1##*.}; shift
exec ip netns exec PREFIX$host unshare --uts sh -c "hostname host$host; exec $*"
"""
# UCX finds that the hosts are one machine, and would go through its memory
TCP_ALONE = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "eth0", "FI_PROVIDER": "tcp"}
# of a limited link: ms of its rate that pass at once, and that wait at most; where the queue is long, data delay the
# acknowledgements of what comes the other way
BURST, QUEUE = 2, 5


def reason_against() -> str:
    """Why there can be no hosts here; nothing where there can."""
    if not sys.platform.startswith("linux") or os.geteuid():
        return "hosts that are network namespaces take root, on Linux"
    if missing := [name for name in ("ip", "tc", "unshare", "hostname") if not shutil.which(name)]:
        return f"hosts that are network namespaces take the program {missing[0]}"
    if not MPIEXEC.exists():
        return "hosts need mpiexec: pip install 'minires[mpi]'"
    try:
        with Hosts(1, gbit=1):
            return ""
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"


class Hosts:
    """`count` hosts, 10.77.0.1 and so on; gbit: Gbit/s of each link, each way; None: no limit."""

    def __init__(self, count: int, gbit: float | None = None):
        self.count, self.gbit, self.prefix = count, gbit, f"minires{os.getpid()}-"
        self.switch, self.stay = f"{self.prefix}switch", ExitStack()

    def __enter__(self):
        with ExitStack() as made:
            folder = Path(made.enter_context(tempfile.TemporaryDirectory()))
            self.launcher = folder / "launcher"
            self.launcher.write_text(LAUNCHER.replace("PREFIX", self.prefix))
            self.launcher.chmod(0o755)
            self._namespace(made, self.switch)
            _run("ip", "-n", self.switch, "link", "add", "name", "switch", "type", "bridge")
            _run("ip", "-n", self.switch, "link", "set", "dev", "switch", "up")
            for host in range(1, self.count + 1):
                self._host(made, host)
            self.stay = made.pop_all()
        return self

    def __exit__(self, *error):
        self.stay.close()

    def _namespace(self, made, name):
        _run("ip", "netns", "add", name)
        made.callback(_run, "ip", "netns", "del", name)
        made.callback(_end_all, name)

    def _host(self, made, host):
        name, port = f"{self.prefix}{host}", f"port{host}"
        self._namespace(made, name)
        link = "link", "add", "name", port, "type", "veth", "peer", "name", "eth0", "netns", name
        _run("ip", "-n", self.switch, *link)
        _run("ip", "-n", self.switch, "link", "set", "dev", port, "master", "switch", "up")
        _run("ip", "-n", name, "addr", "add", f"{_address(host)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run("ip", "-n", name, "link", "set", "dev", device, "up")
        # BBR, the usual on some systems, takes the pauses between two steps for a slow link, and finds it slow again
        _run("ip", "netns", "exec", name, "sh", "-c", "echo reno > /proc/sys/net/ipv4/tcp_congestion_control")
        if self.gbit:  # each way: what leaves the host, and what leaves the switch towards it
            for place, device in ((name, "eth0"), (self.switch, port)):
                rate = "rate", f"{self.gbit}gbit", "burst", f"{int(self.gbit * BURST * 125_000)}b"
                _run("tc", "-n", place, "qdisc", "add", "dev", device, "root", "tbf", *rate, "latency", f"{QUEUE}ms")

    def command(self, on: list[int], *command) -> list[str]:
        """`mpiexec -n RANKS COMMAND`, a rank on each of these hosts, started on the first of them."""
        hosts = ",".join(_address(host) for host in on)
        launch = "-localhost", _address(on[0]), "-launcher", "ssh", "-launcher-exec", self.launcher, "-hosts", hosts
        return list(map(str, (self.launcher, _address(on[0]), MPIEXEC, *launch, "-n", len(on), *command)))

    def start(self, on: list[int], *command, **options) -> subprocess.Popen:
        """The process of `command(...)`; options of Popen."""
        settings = os.environ | {"MINIRES_THREADS": "1"} | TCP_ALONE | options.pop("env", {})
        return subprocess.Popen(self.command(on, *command), env=settings, start_new_session=True, **options)

    def cut_off(self, host: int, silent: bool = True) -> None:
        """Take a host's cable out of the switch; silent: at the far side, so that the host itself sees its link up."""
        how = ("nomaster",) if silent else ("down",)
        _run("ip", "-n", self.switch, "link", "set", "dev", f"port{host}", *how)

    def processes(self, host: int) -> list[int]:
        """Of what runs on a host, the process ids."""
        return _processes(f"{self.prefix}{host}")

    def sent(self, host: int) -> int:
        """Bytes that a host has sent so far."""
        place = f"{self.prefix}{host}"
        told = _run("ip", "netns", "exec", place, "cat", "/proc/net/dev")
        (line,) = (line for line in told.splitlines() if "eth0:" in line)
        return int(line.split(":")[1].split()[8])


def _address(host) -> str:
    return f"10.77.0.{host}"


def _run(*command) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _processes(name) -> list[int]:
    return list(map(int, _run("ip", "netns", "pids", name).split()))


def _end_all(name):
    for pid in _processes(name):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
