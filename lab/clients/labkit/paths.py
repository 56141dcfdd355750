"""Where things are, and how to wait for them."""

import os
import random
import socket
import time
import uuid
from pathlib import Path

REPO = Path(__file__).resolve().parents[3]
LAB = REPO / "lab"
CACHE = LAB / ".cache"
CLIENTS = LAB / "clients"
TIDEMARK = Path(os.environ.get("TIDEMARK_BIN", REPO / "target" / "debug" / "tidemark"))
PEER = os.environ.get("PEER", "tidemark")


def unique(stem="t"):
    """A name that no other test uses."""
    return f"{stem}-{uuid.uuid4().hex[:10]}"


_given = set()


def free_port(count=1):
    """The first of so many ports in a row that nobody listens on and that were not given before, of those that the system gives to no outgoing connection: they stay free until they are used."""
    def is_free(port):
        if port in _given:
            return False
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True

    for first in random.sample(range(20000, 32000), 200):
        ports = range(first, first + count)
        if all(map(is_free, ports)):
            _given.update(ports)
            return first
    raise AssertionError("of 200 ports none is free")


# On a machine that is busy with other work conditions are waited for so many times as long.
PATIENCE = float(os.environ.get("LAB_PATIENCE", "1"))


class Deadline:
    def __init__(self, seconds):
        self.at = time.monotonic() + seconds

    def left(self):
        return max(0.0, self.at - time.monotonic())

    def passed(self):
        return time.monotonic() >= self.at


def wait_until(condition, seconds=20, what="the condition", every=0.05):
    """Asks until the condition gives something true; that is the result."""
    seconds *= PATIENCE
    deadline = Deadline(seconds)
    while True:
        result = condition()
        if result:
            return result
        if deadline.passed():
            raise AssertionError(f"{what} did not come true within {seconds:g} s (last: {result!r})")
        time.sleep(every)
