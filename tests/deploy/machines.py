"""Machines that are namespaces of this one: each with its own processes, addresses, /tmp and home, and an ssh server.

Only for a process that is itself in such a namespace, which `INSIDE` makes: it ends with all that is in it.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

INSIDE = ("unshare", "--pid", "--net", "--mount", "--ipc", "--fork", "--mount-proc", "--kill-child")
HOME = "/mnt/home"
PORTS = (22, 2222)
"""Where each ssh server listens; the second is as a marketplace maps one to a container."""

# What a machine has of its own is in one folder, which stands at /mnt before /tmp, where it may be, is hidden.
OWN = """
mount --rbind "$1" /mnt
mount --bind /mnt/passwd /etc/passwd
mount --bind /mnt/hosts /etc/hosts
mount --bind /mnt/tmp /tmp
mount -t tmpfs tmpfs /dev/shm
shift
"""
BOOT = """
echo there
read -r _  # until it has its end of the cable
ip link set lo up
ip link set eth0 up
for address in "$@"; do ip address add "$address/24" dev eth0; done
ip route add default dev eth0  # by which Ray learns the machine's address
mount -t tmpfs tmpfs /run
mkdir /run/sshd
exec "$(command -v sshd)" -D -f /mnt/sshd_config
"""


@dataclass(frozen=True)
class Operator:
    """Where commands are typed: this process's addresses, and a home with a key and an ssh config."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *command: str) -> None:
        with self.running(*command) as process:
            process.communicate()
            assert process.returncode == 0, command

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-euc", OWN + 'exec "$@"', "sh", self.folder, *command],
            env={**os.environ, "HOME": HOME, "PATH": path, **self.environment}, stdin=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.communicate()


def make_folder(folder: Path, names: Mapping[str, str]) -> None:
    """A machine's own home, /tmp, users and names of others."""
    for each in (folder / "home/.ssh", folder / "tmp"):
        each.mkdir(parents=True)
    me = pwd.getpwuid(os.getuid())
    own = ":".join((me.pw_name, "*", str(me.pw_uid), str(me.pw_gid), "", HOME, "/bin/bash"))
    others = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith(f"{me.pw_name}:")]
    (folder / "passwd").write_text("\n".join([own, *others]) + "\n")
    (folder / "hosts").write_text("".join(f"{a} {name}\n" for name, a in {"localhost": "127.0.0.1", **names}.items()))


def make_operator(folder: Path, addresses: Sequence[str], environment: Mapping[str, str]) -> Operator:
    """Who has these addresses in the networks of the machines to come, and a key for them."""
    make_folder(folder, {})
    key = folder / "home/.ssh/id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    for command in (
        "link set lo up",
        "link add hub type bridge",
        "link set hub up",
        *(f"address add {address}/24 dev hub" for address in addresses),
    ):
        subprocess.run(["ip", *command.split()], check=True)
    return Operator(folder, environment)


@contextmanager
def run_machine(
    folder: Path,
    operator: Operator,
    addresses: Sequence[str],
    names: Mapping[str, str],
    environment: Mapping[str, str],
    *,
    shared: Path,
) -> Iterator[psutil.Process]:
    """A machine that lets the operator in by ssh; its first process, below which all others are.

    Args:
        shared: a folder that stands in the home of each machine under its own name.
    """
    make_folder(folder, names)
    (folder / "home" / shared.name).mkdir()
    public = operator.folder / "home/.ssh/id_ed25519.pub"
    (folder / "home/.ssh/authorized_keys").write_text(public.read_text())
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host_key"], check=True)
    settings = [
        "HostKey /mnt/host_key", "StrictModes no", "PasswordAuthentication no", "PidFile none",
        *(f"Port {port}" for port in PORTS), *(f"SetEnv {key}={value}" for key, value in environment.items()),
    ]  # fmt: skip
    (folder / "sshd_config").write_text("\n".join(settings) + "\n")
    share = f'mount --bind "{shared}" "$1/home/{shared.name}"'
    with subprocess.Popen(
        [*INSIDE, "sh", "-euc", share + OWN + BOOT, "sh", folder, *addresses],
        env={"PATH": os.environ["PATH"]}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline()
            (first,) = psutil.Process(process.pid).children()
            cable = f"link add m{first.pid} type veth peer name eth0 netns {first.pid}"
            for command in (cable, f"link set m{first.pid} master hub up"):
                subprocess.run(["ip", *command.split()], check=True)
            process.stdin.write(b"\n")
            process.stdin.flush()
            yield first
        finally:
            process.kill()  # and with it its child, the first process of a namespace, and all that is in there
