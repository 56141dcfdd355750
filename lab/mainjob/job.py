"""Follows a real log of the machine into a topic and checks what comes out.

  follower   Python (librdkafka, idempotent, acks=all), keyed by the package that a line speaks of
  audit      a group of three members in Python (aiokafka)
  search     a group in JavaScript (kafkajs)
  metrics    a group in Java (Kafka's own client)

The broker is killed with -9 when 40 % of the lines are acknowledged, and
started again. At the end: every acknowledged line is in the topic once, each
partition in the order of the file, and every group has seen all of it.
Exit code 0 when all of that is so, 1 when not.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from confluent_kafka import Producer

from labkit import admin
from labkit.broker import Broker
from labkit.groups import Group
from labkit.paths import PEER, wait_until
from labkit.workers import Worker

PARTITIONS = 4
CANDIDATES = ["/var/log/dpkg.log", "/var/log/syslog", "/var/log/messages", "/var/log/kern.log", "/var/log/apt/history.log"]


def real_log(folder):
    """A log of this machine with lines enough to be worth following.

    A fresh machine may have none: then its files by time of change are
    written out as one, which is as real and as long as anybody needs.
    """
    for path in map(Path, CANDIDATES):
        try:
            with open(path, "rb") as file:
                if sum(1 for _ in file) >= 500:
                    return path
        except OSError:
            continue
    made = folder / "files.log"
    with open(made, "wb") as out:
        find = subprocess.Popen(["find", "/usr", "/etc", "-xdev", "-type", "f", "-printf", "%T+ changed %s %p\n"],
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _, line in zip(range(5000), find.stdout):
            out.write(line)
        find.kill()
        find.wait()
    return made


def machine_writes(log, folder):
    """Makes dpkg write to its log while it is followed: an empty package goes in and out."""
    if str(log) != "/var/log/dpkg.log" or os.geteuid() != 0 or not shutil.which("dpkg-deb"):
        return
    root = folder / "package"
    (root / "DEBIAN").mkdir(parents=True, exist_ok=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: tidemark-main-job\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\n"
        "Description: empty, installed and purged by the main job\n")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if subprocess.run(["dpkg-deb", "--build", root, folder / "empty.deb"], **quiet).returncode:
        return
    for _ in range(3):
        subprocess.run(["dpkg", "-i", folder / "empty.deb"], **quiet)
        subprocess.run(["dpkg", "-P", "tidemark-main-job"], **quiet)


class Follower:
    """tail -F into a topic, remembering what was acknowledged and where."""

    def __init__(self, bootstrap, topic, path, per_second):
        self.topic, self.path, self.per_second = topic, path, per_second
        self.acked = {}  # line number -> (partition, offset)
        self.lines = []  # the text of every line read so far
        self.failed = []
        self.ending = threading.Event()
        self.producer = Producer({
            "bootstrap.servers": bootstrap, "client.id": "follower", "enable.idempotence": True, "acks": "all",
            "linger.ms": 5, "compression.type": "lz4", "partitioner": "murmur2_random", "message.timeout.ms": 120000,
            "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 50, "log_level": 2})
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def _done(self, number):
        def done(error, message):
            if error:
                self.failed.append(f"line {number}: {error}")
            else:
                self.acked[number] = (message.partition(), message.offset())
        return done

    def _follow(self):
        started = time.monotonic()
        with open(self.path, "rb") as file:
            rest = b""
            while True:
                if len(self.lines) > (time.monotonic() - started) * self.per_second:
                    self.producer.poll(0.005)
                    continue
                line = file.readline()
                if not line.endswith(b"\n"):  # the end for now: the writer may be in the middle of a line
                    rest += line
                    if self.ending.is_set():
                        return
                    self.producer.poll(0.02)
                    continue
                line, rest = (rest + line)[:-1], b""
                number = len(self.lines)
                self.lines.append(line)
                words = line.split()
                key = words[3] if len(words) > 3 else b"-"
                while True:
                    try:
                        self.producer.produce(self.topic, b"%d %s" % (number, line), key=key, on_delivery=self._done(number))
                        break
                    except BufferError:
                        self.producer.poll(0.1)

    def finish(self):
        self.ending.set()
        self.thread.join(120)
        self.producer.flush(120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, help="the log to follow (dpkg's unless told)")
    parser.add_argument("--rate", type=int, default=700, help="lines a second at most")
    parser.add_argument("--keep", action="store_true", help="leave the data directory where it is")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tidemark-main-job-"))
    started = time.monotonic()

    def say(text):
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    log = options.log or real_log(folder)
    broker = Broker(data=folder / "data")
    workers, findings = [], []
    chatter = open(folder / "clients.log", "wb")  # what the clients say of the broker being gone
    try:
        broker.start()
        say(f"{'tidemark' if PEER == 'tidemark' else 'Apache Kafka'} ready on {broker.bootstrap}")
        topic = admin.create(broker.bootstrap, "machine-log", PARTITIONS)
        groups = {}
        for name, client, assignor, size in (("audit", "aiokafka", "roundrobin", 3), ("search", "kafkajs", "roundrobin", 1),
                                             ("metrics", "java-4.3", "cooperative-sticky", 1)):
            group = groups[name] = Group(broker.bootstrap, [topic], group=name)
            for at in range(size):
                workers.append(Worker(client, stderr=chatter))
                group.join(workers[-1], assignor, member=f"{name}-{at + 1}", session_ms=6000)
        for group in groups.values():
            group.settled([(topic, p) for p in range(PARTITIONS)])
        say("three groups read: audit (Python, 3 members), search (JavaScript), metrics (Java)")

        follower = Follower(broker.bootstrap, topic, log, options.rate)
        total = sum(1 for _ in open(log, "rb"))
        say(f"following {log}: {total} lines so far")
        wait_until(lambda: len(follower.acked) >= total * 0.4, 120, "40 % of the lines being acknowledged")
        before = len(follower.acked)
        broker.kill()
        say(f"kill -9 of the broker after {before} acknowledged lines")
        machine_writes(log, folder)
        broker.start()
        say("the broker is back")
        wait_until(lambda: len(follower.acked) > before, 60, "the follower going on")
        machine_writes(log, folder)
        follower.finish()
        acked = follower.acked
        say(f"all {len(follower.lines)} lines sent ({len(follower.lines) - total} written meanwhile), {len(acked)} acknowledged")
        findings += follower.failed

        written = {at: f"{n} {follower.lines[n].decode(errors='surrogateescape')}" for n, at in acked.items()}
        for name, group in groups.items():
            try:
                wait_until(lambda: {(p, o) for _, _, p, o, _ in group.rows()} >= written.keys(), 60, f"{name} having read all")
            except AssertionError as error:
                findings.append(str(error))
        say("every group has caught up")
        for group in groups.values():
            group.end()

        held = admin.read_all(broker.bootstrap, topic, partitions=PARTITIONS)
        numbers = {p: [int(value.split(b" ", 1)[0]) for _, _, value in rows] for p, rows in held.items()}
        flat = [n for rows in numbers.values() for n in rows]
        missing = sorted(acked.keys() - set(flat))
        twice = len(flat) - len(set(flat))
        disorder = sum(1 for rows in numbers.values() for a, b in zip(rows, rows[1:]) if b <= a)
        altered = sum(1 for rows in held.values() for _, _, value in rows
                      for n, text in [value.split(b" ", 1) if b" " in value else (value, b"")] if follower.lines[int(n)] != text)
        if missing:
            findings.append(f"{len(missing)} acknowledged lines are not in the topic, the first is line {missing[0]}")
        if twice:
            findings.append(f"{twice} lines are in the topic more than once")
        if disorder:
            findings.append(f"{disorder} lines are out of order within their partition")
        if altered:
            findings.append(f"{altered} lines are not as they were in the file")

        print(f"\n{'topic machine-log':<34}{'lines':>8}{'missing':>9}{'twice':>7}{'disorder':>10}{'altered':>9}")
        print(f"{f'{PARTITIONS} partitions':<34}{len(flat):>8}{len(missing):>9}{twice:>7}{disorder:>10}{altered:>9}")
        print(f"\n{'group':<34}{'lines':>8}{'missing':>9}{'read again after the kill':>27}")
        for name, group in groups.items():
            rows = group.rows()
            seen = {(p, o) for _, _, p, o, _ in rows}
            lacking = len(written.keys() - seen)
            by = ", ".join(f"{m} {len({(p, o) for _, _, p, o, _ in group.rows(m)})}" for m in group.members)
            print(f"{name + ' (' + workers_of(group) + ')':<34}{len(seen):>8}{lacking:>9}{len(rows) - len(seen):>27}")
            if len(group.members) > 1:
                print(f"  {by}")
            if lacking:
                findings.append(f"group {name} lacks {lacking} acknowledged lines")
            try:
                group.check(written)
            except AssertionError as error:
                findings.append(f"group {name}: {error}")
    finally:
        for worker in workers:
            worker.close()
        broker.kill()
        chatter.close()
        if options.keep:
            print(f"\nkept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print()
    for finding in findings:
        print(f"FINDING: {finding}")
    print("main job: " + ("every acknowledged line is there, once, in order" if not findings else f"{len(findings)} findings"))
    return 1 if findings else 0


def workers_of(group):
    return ", ".join(sorted({s["worker"].client.name for s in group.members.values()}))


if __name__ == "__main__":
    sys.exit(main())
