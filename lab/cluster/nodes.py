"""Three brokers that are controllers too, each in its network and on its disk: Tidemark, or Apache Kafka.

Both take Kafka's settings, so that a flavour is how a directory is formatted,
how a broker is started, and the line by which it says that it is ready.
"""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

from labkit import wire
from labkit.paths import LAB, TIDEMARK, wait_until

from net import BROKERS, address, namespace

SESSION_TIMEOUT_S = 9  # broker.session.timeout.ms of both, as it is unless set
DISK = "1G"
COMMON = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "offsets.topic.num.partitions": "3",
    "group.initial.rebalance.delay.ms": "0",
}


class Node:
    """One broker process and its disk: a file that is mounted, so that it can be full and still be a disk."""

    ready = None

    def __init__(self, number, work):
        self.number = number
        self.dir = work / f"{self.name}-{number}"
        self.image, self.log = (self.dir.with_suffix(end) for end in (".img", ".log"))
        self.filler = self.dir / "filler"
        self.process = None
        self.settings = {
            **COMMON, "node.id": str(number), "log.dirs": str(self.dir / "logs"),
            "listeners": f"PLAINTEXT://{address(number)}:9092,CONTROLLER://{address(number)}:9093",
            "advertised.listeners": f"PLAINTEXT://{address(number)}:9092",
        }

    def mount(self):
        self.dir.mkdir()
        subprocess.run(["truncate", "-s", DISK, self.image], check=True)
        subprocess.run(["mkfs.ext4", "-q", self.image], check=True)
        subprocess.run(["mount", "-o", "loop", self.image, self.dir], check=True)

    def unmount(self):
        if os.path.ismount(self.dir):
            subprocess.run(["umount", "-l", self.dir], check=False)

    def format(self):
        """Whatever has to be done once to an empty disk."""

    def start(self):
        """Starts it, and does not wait."""
        self.began_at = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            # It goes when this process goes, however that comes about.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{namespace(self.number)}", *self.command()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "KAFKA_HEAP_OPTS": "-Xmx384m -Xms384m"})

    def is_ready(self):
        if not self.alive():
            raise AssertionError(f"{self.name} {self.number} ended with {self.process.returncode}:\n{self.tail()}")
        with open(self.log, "rb") as log:
            log.seek(self.began_at)
            return self.ready.search(log.read())

    def wait_ready(self, seconds=90):
        wait_until(self.is_ready, seconds, f"{self.name} {self.number} being ready")

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def tail(self, lines=25):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait(30)

    def stop(self, seconds=60):
        """SIGTERM, and it must end by itself."""
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} {self.number} did not end within {seconds} s of SIGTERM:\n{self.tail()}") from None

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def fill(self):
        """Takes the rest of its disk."""
        with open(self.filler, "wb") as file:
            free = shutil.disk_usage(self.dir).free
            for step in (1 << 20, 1 << 12):
                while True:
                    free = min(free, shutil.disk_usage(self.dir).free) // step * step
                    if free <= 0:
                        break
                    try:
                        os.posix_fallocate(file.fileno(), file.tell(), free)
                        file.seek(free, os.SEEK_CUR)
                    except OSError:
                        break
        return shutil.disk_usage(self.dir).free

    def drain(self):
        self.filler.unlink(missing_ok=True)


class Kafka(Node):
    name = "kafka"
    ready = re.compile(rb"Kafka Server started")

    def command(self):
        voters = ",".join(f"{b}@{address(b)}:9093" for b in BROKERS)
        command = [str(LAB / "bin" / "kafka-broker"), "start", "--foreground", "--data", str(self.dir)]
        for name, value in {**self.settings, "controller.quorum.voters": voters}.items():
            command += ["--set", f"{name}={value}"]
        return command


class Tidemark(Node):
    name = "tidemark"
    ready = re.compile(rb"^ready ", re.MULTILINE)
    cluster_id = "tidemark-lab-cluster0A"  # an id, like those of the directories, in the form of a uuid

    def config(self):
        return self.dir.with_suffix(".yaml")

    def command(self):
        return [str(TIDEMARK), "broker", "--config", str(self.config())]

    def format(self):
        servers = ",".join(f"{address(b)}:9093" for b in BROKERS)
        settings = {**self.settings, "controller.quorum.bootstrap.servers": servers}
        self.config().write_text(json.dumps({"config": settings}, indent=1))  # which is YAML as well
        voters = ",".join(f"{b}@{address(b)}:9093:tidemark-lab-disk000{b}A" for b in BROKERS)
        done = subprocess.run([str(TIDEMARK), "format", "--cluster-id", self.cluster_id, "--config", str(self.config()),
                               "--initial-voters", voters], capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"tidemark format gave {done.returncode}: {done.stderr}")


FLAVOURS = {one.name: one for one in (Kafka, Tidemark)}


class Cluster:
    def __init__(self, flavour, work):
        self.name = flavour
        self.nodes = {b: FLAVOURS[flavour](b, work) for b in BROKERS}
        self.bootstrap = ",".join(f"{address(b)}:9092" for b in BROKERS)
        self.admin = None

    def start(self):
        for node in self.nodes.values():
            node.mount()
            node.format()
        for node in self.nodes.values():
            node.start()
        for node in self.nodes.values():
            node.wait_ready()
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "socket.timeout.ms": 3000, "log_level": 0,
                                  "reconnect.backoff.max.ms": 200})
        self.wait_whole()
        return self

    def end(self):
        for node in self.nodes.values():
            node.kill()
        for node in self.nodes.values():
            node.unmount()

    def is_whole(self):
        """All brokers are there, and all replicas of all partitions in sync."""
        try:
            seen = self.admin.list_topics(timeout=3)
        except Exception:  # noqa: BLE001 - any error of the client says that it is not whole
            return False
        return len(seen.brokers) == len(BROKERS) and all(
            not topic.error and p.leader > 0 and len(p.isrs) == len(p.replicas)
            for topic in seen.topics.values() for p in topic.partitions.values())

    def wait_whole(self, seconds=90):
        wait_until(self.is_whole, seconds, f"the {self.name} cluster being whole", every=0.2)

    def create(self, topic, assignment):
        """A topic whose partitions have their replicas where `assignment` says, the first being the leader."""
        made = self.admin.create_topics([NewTopic(topic, num_partitions=len(assignment), replica_assignment=assignment)],
                                        request_timeout=15)
        made[topic].result(20)

    def delete(self, topic):
        self.admin.delete_topics([topic], request_timeout=15)[topic].result(20)

    def leader(self, topic, seconds=20, replicas=len(BROKERS)):
        """Of partition 0, once all replicas of the topic are in sync."""
        def known():
            partitions = self.admin.list_topics(topic, timeout=5).topics[topic].partitions
            whole = partitions and all(p.leader > 0 and len(p.isrs) == replicas for p in partitions.values())
            return whole and partitions[0].leader
        return wait_until(known, seconds, f"leaders of {topic}")

    def controller(self, seconds=20):
        """The active controller, by DescribeQuorum: as the newest epoch has it."""
        def ask():
            answers = [answer for b in BROKERS if self.nodes[b].alive() and (answer := described_quorum(address(b)))]
            epoch, leader = max(answers, default=(0, -1))
            return leader if leader > 0 else None
        return wait_until(ask, seconds, f"the {self.name} cluster having an active controller", every=0.2)


def described_quorum(host):
    """(epoch, leader) of the metadata quorum as a broker tells, None where it does not."""
    topic = wire.compact("__cluster_metadata")
    body = wire.uvarint(2) + topic + wire.uvarint(2) + wire.i32(0) + b"\0" + b"\0" + b"\0"
    try:
        with wire.Raw(f"{host}:9092", seconds=3) as raw:
            answer = raw.ask(55, 0, body, flexible=True)
    except OSError:
        return None
    if not answer:
        return None
    # Correlation id, tags, error, one topic, its name, one partition: index, error, leader, epoch.
    at = 4 + 1
    error, = struct.unpack_from(">h", answer, at)
    at += 2 + 1 + len(topic) + 1
    if error or len(answer) < at + 14:
        return None
    _, error, leader, epoch = struct.unpack_from(">ihii", answer, at)
    return None if error else (epoch, leader)
