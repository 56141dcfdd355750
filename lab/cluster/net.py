"""A network of its own for each broker and one for the clients, on a bridge that ends in itself.

  tmlab-sw    the bridge           tmlab-b1..3  10.77.0.1..3, a broker each
  tmlab-c     10.77.0.10, clients  and whoever calls `enter`

Nothing here has a way out of the machine. The names are mounts, which the caller
has made private: other processes do not see them, and when the last process that
does is gone, so is the network. A cut is made where the packets would arrive, so
that the sender's own kernel knows nothing of it.
"""

import ctypes
import os
import subprocess

SWITCH, CLIENTS = "tmlab-sw", "tmlab-c"
BROKERS = (1, 2, 3)
CLONE_NEWNET = 0x40000000


def namespace(broker):
    return f"tmlab-b{broker}"


def address(broker):
    return f"10.77.0.{broker}"


def _run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")


class Network:
    def __init__(self):
        self.hosts = {namespace(b): address(b) for b in BROKERS} | {CLIENTS: "10.77.0.10"}

    def up(self):
        os.makedirs("/run/netns", exist_ok=True)
        _run("mount", "-t", "tmpfs", "none", "/run/netns")
        _run("ip", "netns", "add", SWITCH)
        _run("ip", "-n", SWITCH, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", SWITCH, "link", "set", "br0", "up")
        for host, ip in self.hosts.items():
            port = host.removeprefix("tmlab-")
            _run("ip", "netns", "add", host)
            _run("ip", "-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", SWITCH)
            _run("ip", "-n", SWITCH, "link", "set", port, "master", "br0", "up")
            _run("ip", "-n", host, "addr", "add", f"{ip}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", host, "link", "set", device, "up")
        return self

    def enter(self):
        """Moves the calling thread, and what it starts from now on, to the clients' network."""
        with open(f"/run/netns/{CLIENTS}") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def _block(self, source, target):
        self._filter(target, "-A", "INPUT", "-s", self.hosts[source], "-j", "DROP")

    def _filter(self, host, *arguments):
        _run("nsenter", f"--net=/run/netns/{host}", "iptables", "-w", *arguments)

    def deafen(self, broker, of=None):
        """Nothing of the others (or of the hosts told) reaches the broker."""
        me = namespace(broker)
        for host in of or self.hosts:
            if host != me:
                self._block(host, me)

    def mute(self, broker, to=None):
        """Nothing of the broker reaches the others (or the hosts told)."""
        me = namespace(broker)
        for host in to or self.hosts:
            if host != me:
                self._block(me, host)

    def cut(self, broker):
        self.deafen(broker)
        self.mute(broker)

    def split(self, broker):
        """Cut from the other brokers, while clients reach it."""
        others = [host for host in self.hosts if host != CLIENTS]
        self.deafen(broker, others)
        self.mute(broker, others)

    def heal(self):
        for host in self.hosts:
            self._filter(host, "-F")
