"""A network to a bucket that is not on this machine: bytes take their time, and only so many come in a second."""

import asyncio
import collections
import contextlib
import multiprocessing
import os
import socket
from pathlib import Path

from labkit.paths import free_port, wait_until

DELAY_S = 0.005
DOWN_BYTES_PER_S = 125_000_000
SPAWN = multiprocessing.get_context("spawn")


def leave_the_processors_to_others(pid=None):
    """For what would be on another machine: all threads of a process, this one without a number.

    They run when nobody else wants to, and whoever does interrupts them at once; one that is only `nice` keeps
    a processor for the milliseconds of its slice.
    """
    for thread in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))


class Way:
    """One direction of all connections together."""

    def __init__(self, bytes_per_s):
        self.bytes_per_s, self.free_at = bytes_per_s, 0.0

    def passes(self, now, size):
        """When so many bytes that come now have passed."""
        self.free_at = max(self.free_at, now) + (size / self.bytes_per_s if self.bytes_per_s else 0)
        return self.free_at


class End(asyncio.Protocol):
    """One end of a connection; `other` is where its bytes go."""

    def __init__(self, way):
        self.loop, self.way, self.other, self.transport = asyncio.get_running_loop(), way, None, None
        self.under_way = collections.deque()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        now = self.loop.time()
        passed = self.way.passes(now, len(data))
        self.send(data, passed)
        if passed > now + DELAY_S:
            # What is on its way is bounded, as on any network.
            self.transport.pause_reading()
            self.loop.call_at(passed, self.resume)

    def connection_lost(self, _):
        self.send(None, max(self.way.free_at, self.loop.time()))

    def send(self, data, passed):
        # Timers of one moment have no order: each takes what is next.
        self.under_way.append(data)
        self.loop.call_at(passed + DELAY_S, self.arrive)

    def arrive(self):
        # Before the other end is there it waits for it.
        if not self.under_way or self.other.transport is None:
            return
        data = self.under_way.popleft()
        if data is None:
            self.other.transport.close()
        elif not self.other.transport.is_closing():
            self.other.transport.write(data)

    def resume(self):
        if not self.transport.is_closing():
            self.transport.resume_reading()


def serve(port, host, to_port):
    leave_the_processors_to_others()

    async def run():
        loop, up, down = asyncio.get_running_loop(), Way(None), Way(DOWN_BYTES_PER_S)

        def accepted():
            near, far = End(up), End(down)
            near.other, far.other = far, near
            connecting = loop.create_task(loop.create_connection(lambda: far, host, to_port))

            def connected(done):
                if done.cancelled() or done.exception():
                    near.transport.abort()
                for _ in range(len(near.under_way)):
                    near.arrive()
            connecting.add_done_callback(connected)
            return near
        async with await loop.create_server(accepted, host, port) as server:
            await server.serve_forever()
    asyncio.run(run())


class Link:
    """A process that stands before a server: DELAY_S each way, DOWN_BYTES_PER_S from it."""

    def __init__(self, host, to_port):
        self.host, self.port = host, free_port()
        self.process = SPAWN.Process(target=serve, args=(self.port, host, to_port), daemon=True)
        self.process.start()
        wait_until(self.listens, 20, "the link to the bucket")

    def listens(self):
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
            return True
        return False

    def end(self):
        self.process.kill()
        self.process.join(10)
