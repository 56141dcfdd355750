"""Client workers: one process for each kind of client, all speaking the same
lines of JSON, so that a test is written once and runs with every client.

Requests: {"id", "op", ...}; answers: {"id", "ok", ...}; events of a group
member come unasked: {"member", "ev", ...}. Keys, values and header values are
base64 or null. See `serve.py` for the operations.
"""

import base64
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading

from .paths import CACHE, CLIENTS, Deadline

OPENS = ["--add-opens=java.base/java.lang=ALL-UNNAMED"]


def _java(jars):
    return ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
            f"-Dlog4j2.configurationFile={CLIENTS.parent}/kafka/log4j2-tools.properties",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp", f"{CACHE}/java:{jars}/*", "Driver"]


def _python(kind):
    return [sys.executable, "-m", "labkit.serve", kind]


class Client:
    """What one kind of client is able to do."""

    def __init__(self, name, command, codecs, assignors, null_headers=True, null_both=True, idempotent=True,
                 static=True, lookup=True, transactions=False):
        self.name = name
        self.command = command
        self.codecs = codecs
        self.assignors = assignors
        self.null_headers = null_headers  # a header may have no value
        self.null_both = null_both  # a record may have neither key nor value
        self.idempotent = idempotent
        self.static = static  # group.instance.id
        self.lookup = lookup  # finds the beginning, the end and times by itself
        self.transactions = transactions

    def __repr__(self):
        return self.name


ALL = ["none", "gzip", "snappy", "lz4", "zstd"]
CLIENTS_BY_NAME = {c.name: c for c in [
    Client("confluent", _python("confluent"), ALL, ["range", "roundrobin", "cooperative-sticky"],
           transactions=True),
    Client("kafka-python", _python("kafka-python"), ALL, ["range", "roundrobin", "sticky"], null_both=False,
           null_headers=False, transactions=True),
    Client("aiokafka", _python("aiokafka"), ALL, ["range", "roundrobin", "sticky"], null_both=False,
           null_headers=False, transactions=True),
    Client("kafkajs", ["node", str(CLIENTS / "node" / "driver.js")], ALL, ["roundrobin"],
           static=False, null_headers=False, transactions=True),
    Client("java-4.3", _java(CACHE / "kafka" / "libs"), ALL, ["range", "roundrobin", "sticky", "cooperative-sticky"],
           transactions=True),
    Client("java-2.1", _java(CACHE / "kafka" / "oldest"), ALL, ["range", "roundrobin", "sticky"], static=False,
           transactions=True),
    # Kafka 4 took ListOffsets 0 away, so that a librdkafka before 1.8 still writes, and reads
    # from an offset that it is told, but finds no beginning and no end.
    Client("librdkafka-0.11", _python("librdkafka-0.11.6"), ["none", "gzip", "snappy", "lz4"], [],
           idempotent=False, lookup=False),
    Client("librdkafka-1.8", _python("librdkafka-1.8.2"), ALL, ["range", "roundrobin"]),
    Client("kcat", _python("kcat"), ALL, [], null_headers=False, static=False),
]}


class WorkerError(Exception):
    """What a client said when it refused."""

    def __init__(self, answer):
        super().__init__(answer.get("error", "unknown"))
        self.answer = answer


class Worker:
    """A running client process."""

    def __init__(self, name, stderr=None):
        self.client = CLIENTS_BY_NAME[name]
        env = {**os.environ, "PYTHONPATH": str(CLIENTS), "NODE_PATH": str(CACHE / "node" / "node_modules"),
               "KAFKAJS_NO_PARTITIONER_WARNING": "1"}
        self.process = subprocess.Popen(self.client.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=stderr, text=True, env=env, cwd=CLIENTS)
        self.ids = itertools.count(1)
        self.waiting = {}
        self.members = {}
        self.lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            if "member" in answer:
                with self.lock:
                    sink = self.members.get(answer["member"])
                if sink:
                    sink(answer)
            elif "id" in answer:
                with self.lock:
                    box = self.waiting.get(answer["id"])
                if box:
                    box.put(answer)
        with self.lock:
            for box in self.waiting.values():
                box.put({"ok": False, "error": "the worker ended"})

    def begin(self, op, **fields):
        number = next(self.ids)
        box = queue.Queue()
        with self.lock:
            self.waiting[number] = box
        line = json.dumps({"id": number, "op": op, **fields})
        with self.lock:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        return Pending(self, number, box)

    def call(self, op, seconds=40, **fields):
        return self.begin(op, **fields).result(seconds)

    def alive(self):
        return self.process.poll() is None

    def kill(self):
        """kill -9, with all members inside."""
        if self.alive():
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def close(self):
        if not self.alive():
            return
        try:
            self.process.stdin.close()
            self.process.wait(3)
        except (subprocess.TimeoutExpired, OSError):
            self.kill()


class Pending:
    def __init__(self, worker, number, box):
        self.worker, self.number, self.box = worker, number, box

    def event(self, name, seconds=20):
        """Waits for a note that comes before the answer."""
        try:
            answer = self.box.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"{self.worker.client.name}: no {name} within {seconds} s") from None
        if answer.get("ev") == name:
            return answer
        raise WorkerError(answer)

    def result(self, seconds=40):
        deadline = Deadline(seconds)
        while True:
            try:
                answer = self.box.get(timeout=max(0.01, deadline.left()))
            except queue.Empty:
                raise AssertionError(f"{self.worker.client.name} gave no answer within {seconds} s") from None
            if "ev" not in answer:
                break
        with self.worker.lock:
            self.worker.waiting.pop(self.number, None)
        if not answer.get("ok"):
            raise WorkerError(answer)
        return answer


def b64(data):
    return None if data is None else base64.b64encode(data).decode()


def unb64(text):
    return None if text is None else base64.b64decode(text)


def record(value, key=None, headers=(), partition=None, timestamp_ms=None):
    """A record as it goes over the line. `headers`: pairs of name and bytes or None."""
    out = {"v": b64(value), "k": b64(key)}
    if headers:
        out["h"] = [[name, b64(content)] for name, content in headers]
    if partition is not None:
        out["p"] = partition
    if timestamp_ms is not None:
        out["t"] = timestamp_ms
    return out
