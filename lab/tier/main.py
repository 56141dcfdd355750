"""Tiered storage as a whole: nothing that was acknowledged is missing, wherever it lies.

1. Three brokers, min.insync.replicas 2, small segments, little kept on local disks; values say what they are.
2. While records are produced: the bucket is away for a while, then the leader is killed and comes back.
3. Everything goes to the bucket, local disks keep what they should, `tidemark tier verify --deep` is content.
4. A real client reads all of it, from the beginning, at offsets and times of chance.
5. A reader that knows only docs/tier-format.md reads the same out of the bucket.
6. DeleteRecords and retention reach into the bucket.
7. All brokers are killed and all disks are gone: three new ones begin with what the bucket has. Everything is read
   again, groups go on where they were, and so does a producer.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import reader
from cluster import IDS, Node, end
from labkit.paths import TIDEMARK, wait_until
from store import STORES

TOPIC, PARTITIONS = "orders", 3
SEGMENT, LOCAL = 1 << 20, 2 << 20


def value_of(partition, sequence):
    head = f"{partition} {sequence} "
    return (head + f"{zlib.crc32(head.encode()):08x} " + "x" * 300).encode()


class Load:
    """Produces to every partition in turn, and remembers what was acknowledged where."""

    def __init__(self, bootstrap):
        self.acked = [{} for _ in range(PARTITIONS)]
        self.failed, self.sent, self.over = [], [0] * PARTITIONS, threading.Event()
        self.producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 5,
                                  "delivery.timeout.ms": 120_000, "queue.buffering.max.messages": 20_000})
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.over.is_set():
            for partition in range(PARTITIONS):
                sequence = self.sent[partition]
                self.sent[partition] += 1
                try:
                    self.producer.produce(TOPIC, value_of(partition, sequence), partition=partition,
                                          on_delivery=lambda error, message, s=sequence: self.told(error, message, s))
                except BufferError:
                    self.sent[partition] -= 1
                    self.producer.poll(0.05)
            self.producer.poll(0)
            if sum(self.sent) % 300 == 0:
                time.sleep(0.02)

    def told(self, error, message, sequence):
        if error:
            self.failed.append(str(error))
        else:
            self.acked[message.partition()][message.offset()] = sequence

    def stop(self):
        self.over.set()
        self.thread.join(60)
        assert self.producer.flush(120) == 0, "not all records were answered"

    def acked_bytes(self):
        return sum(map(len, self.acked)) * 320


def tidemark(*words, check=True):
    done = subprocess.run([TIDEMARK, *map(str, words)], capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done


def local_bytes(node, partition):
    folder = node.dir / "logs" / f"{TOPIC}-{partition}"
    return sum(file.stat().st_size for file in folder.glob("*.log"))


def consumer(bootstrap):
    return Consumer({"bootstrap.servers": bootstrap, "group.id": "lab", "enable.auto.commit": False,
                     "auto.offset.reset": "error", "check.crcs": True})


def read(one, partition, offset, count, seconds=60):
    one.assign([TopicPartition(TOPIC, partition, offset)])
    found, deadline = [], time.monotonic() + seconds
    while len(found) < count:
        assert time.monotonic() < deadline, f"partition {partition} from {offset}: {len(found)} of {count} records"
        message = one.poll(1)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        found.append((message.offset(), message.timestamp()[1], message.value()))
    return found


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--megabytes", type=int, default=60, help="how much to produce")
    arguments.add_argument("--store", choices=STORES, default="s3", help="which object store")
    arguments.add_argument("--seed", type=int, default=int(time.time()))
    arguments = arguments.parse_args()
    chance = random.Random(arguments.seed)
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tidemark-tier-", dir=os.environ.get("TMPDIR")) as work:
        work = Path(work)
        store = STORES[arguments.store](work)
        nodes = [Node(number, work) for number in IDS]
        os.environ.update(store.environment)
        where = [store.url, "--endpoint", store.endpoint, "--region", "us-east-1"]
        settings = [f"tier.url={store.url}", f"tier.endpoint={store.endpoint}", "tier.region=us-east-1", "tier.upload.max.lag.ms=3000",
                    "log.retention.check.interval.ms=1000", "tier.delete.delay.ms=0"]
        try:
            store.start()
            for node in nodes:
                node.format(nodes)
            for node in nodes:
                node.start(*settings)
            for node in nodes:
                node.wait_ready()
            load = play(store, nodes, settings, where, chance, arguments.megabytes << 20)
            come_back(nodes, settings, where, load, chance)
        except BaseException:
            for log in sorted(work.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-2500:]}", file=sys.stderr)
            raise
        finally:
            for node in nodes:
                if node.process and node.process.poll() is None:
                    node.kill()
            if store.process and store.process.poll() is None:
                store.back()
                store.process.kill()
                store.process.wait(10)


def play(store, nodes, settings, where, chance, total):
    bootstrap = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    config = {"remote.storage.enable": "true", "segment.bytes": str(SEGMENT), "local.retention.bytes": str(LOCAL),
              "file.delete.delay.ms": "1000"}
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 3, config=config)])[TOPIC].result(30)

    load = Load(bootstrap)
    wait_until(lambda: load.acked_bytes() > total / 3, 120, "a third of the records")
    print("the bucket goes away", flush=True)
    store.away()
    before = load.acked_bytes()
    wait_until(lambda: load.acked_bytes() > before + total / 6, 60, "records are taken while the bucket is away")
    store.back()
    leader = next(p.leader for p in admin.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions.values() if p.id == 0)
    print(f"broker {leader} is killed", flush=True)
    victim = nodes[leader - 1]
    victim.kill()
    before = load.acked_bytes()
    wait_until(lambda: load.acked_bytes() > before + total / 6, 60, "records are taken while a broker is gone")
    victim.start(*settings)
    victim.wait_ready()
    wait_until(lambda: load.acked_bytes() > total, 180, "all of the records")
    load.stop()
    assert not load.failed, load.failed[:3]
    for partition, acked in enumerate(load.acked):
        assert sorted(acked.values()) == list(range(load.sent[partition])), f"partition {partition}: lost or twice"
        assert [acked[offset] for offset in sorted(acked)] == sorted(acked.values()), f"partition {partition}: out of order"
    ends = [max(acked) + 1 for acked in load.acked]
    print(f"{sum(map(len, load.acked)):,} records acknowledged", flush=True)

    def in_bucket():
        rows = json.loads(tidemark("tier", "ls", *where, "-o", "json").stdout)
        return len(rows) == PARTITIONS and all(row["end_offset"] == ends[row["partition"]] for row in rows) and rows
    rows = wait_until(in_bucket, 120, "everything to be in the bucket", every=1)
    most = LOCAL + 2 * SEGMENT
    wait_until(lambda: all(local_bytes(node, p) <= most for node in nodes for p in range(PARTITIONS)), 120,
               f"local logs of at most {most:,} bytes")
    verified = tidemark("tier", "verify", "--deep", *where, "-o", "json", check=False)
    findings = [f for f in json.loads(verified.stdout)["findings"] if f["kind"] != "orphan"]
    assert not findings, findings

    one = consumer(bootstrap)
    times = {}
    for partition, acked in enumerate(load.acked):
        low, high = bounds_of(one, partition)
        assert (low, high) == (0, ends[partition]), (low, high)
        found = read(one, partition, 0, len(acked), 180)
        assert [offset for offset, _, _ in found] == sorted(acked)
        for offset, timestamp, value in found:
            assert value == value_of(partition, acked[offset]), f"{partition}-{offset}"
            times[partition, offset] = timestamp
    print("all of it read from the beginning", flush=True)
    for _ in range(40):
        partition = chance.randrange(PARTITIONS)
        offset = chance.randrange(ends[partition])
        (at, _, value), = read(one, partition, offset, 1)
        assert (at, value) == (offset, value_of(partition, load.acked[partition][offset]))
        wanted = times[partition, offset]
        # The client asks again by itself where a broker says that it does not know yet.
        answer, = one.offsets_for_times([TopicPartition(TOPIC, partition, wanted)], timeout=30)
        first = min(o for o in range(max(0, offset - 5000), offset + 1) if times[partition, o] >= wanted)
        assert answer.offset <= first and times[partition, answer.offset] >= wanted, (partition, wanted, answer.offset, first)
    print("offsets and times of chance are right", flush=True)

    ids = {row["partition"]: row["topic_id"] for row in rows}
    for partition, acked in enumerate(load.acked):
        found = list(reader.partition(store.get, store.list_keys, ids[partition], partition))
        assert [offset for offset, _, _ in found] == sorted(acked)
        assert all(value == value_of(partition, acked[offset]) for offset, _, value in found)
    print("the independent reader found the same", flush=True)

    half = ends[0] // 2
    # A client that has not seen the brokers since: what it knows of leaders is not from before the kill.
    again = AdminClient({"bootstrap.servers": bootstrap})
    again.delete_records([TopicPartition(TOPIC, 0, half)])[TopicPartition(TOPIC, 0, half)].result(30)
    low, _ = bounds_of(one, 0)
    assert low == half, low
    (at, _, _), = read(one, 0, half, 1)
    assert at == half
    whole = sum(row["bytes"] for row in rows if row["partition"] == 1)
    tidemark("-b", bootstrap, "config", "set", "--topic", TOPIC, f"retention.bytes={whole // 2}")

    def shrunk():
        rows = json.loads(tidemark("tier", "ls", *where, "-o", "json").stdout)
        return all(row["start_offset"] > 0 and row["bytes"] <= whole * 0.7 for row in rows if row["partition"] != 0)
    wait_until(shrunk, 60, "retention in the bucket", every=1)
    wait_until(lambda: bounds_of(one, 1)[0] > 0, 30, "consumers hear of it")
    one.close()
    verified = tidemark("tier", "verify", *where, "-o", "json", check=False)
    findings = [f for f in json.loads(verified.stdout)["findings"] if f["kind"] != "orphan"]
    assert not findings, findings
    print("DeleteRecords and retention reach into the bucket", flush=True)
    return load


def bounds_of(one, partition):
    """Where a partition begins and ends. That its leader has changed, librdkafka tells and does not ask again."""
    def ask():
        try:
            return one.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION:
                raise
            return None
    return wait_until(ask, 30, f"the leader of {TOPIC}-{partition} to answer", every=0.2)


def committed(bootstrap, group, partition):
    one = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    found, = one.committed([TopicPartition(TOPIC, partition)], timeout=30)
    one.close()
    return found.offset


def plan_of(where):
    done = tidemark("tier", "restore", *where, "--dry-run", "-o", "json", check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def come_back(nodes, settings, where, load, chance):
    bootstrap = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    config = {"remote.storage.enable": "true", "cleanup.policy": "compact"}
    admin.create_topics([NewTopic("prices", 1, 3, config=config)])["prices"].result(30)
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    prices = {}
    for number in range(3000):
        key, value = f"item {chance.randrange(200)}", f"{number}"
        producer.produce("prices", value, key=key, partition=0)
        prices[key] = value
    assert producer.flush(60) == 0
    one = consumer(bootstrap)
    bounds = [bounds_of(one, p) for p in range(PARTITIONS)]
    one.close()
    middles = [(low + high) // 2 for low, high in bounds]
    for partition, offset in enumerate(middles):
        group = Consumer({"bootstrap.servers": bootstrap, "group.id": f"group-{partition}"})
        group.commit(offsets=[TopicPartition(TOPIC, partition, offset)], asynchronous=False)
        group.close()
    beyond = Consumer({"bootstrap.servers": bootstrap, "group.id": "beyond"})
    beyond.commit(offsets=[TopicPartition(TOPIC, 1, bounds[1][1] + 1000)], asynchronous=False)
    beyond.close()

    def whole():
        plan = plan_of(where)
        topics = {topic["name"]: topic["partitions"] for topic in plan["topics"]} if plan else {}
        return (topics.get("prices", [{}])[0].get("end_offset") == 3000 and len(plan["clamped"]) == 1
                and sum(p["end_offset"] for p in topics["__consumer_offsets"]) >= 4) and plan
    plan = wait_until(whole, 90, "all that is to come back to be in the bucket", every=1)
    assert plan["clamped"][0]["to"] == bounds[1][1], plan["clamped"]

    for node in nodes:
        node.kill()
    for node in nodes:
        shutil.rmtree(node.dir, ignore_errors=True)
        node.dir.mkdir()
    print("all brokers and disks are gone", flush=True)
    began = time.monotonic()
    words = [word for setting in settings for word in ("--set", setting)]
    voters = ",".join(f"{n.number}@127.0.0.1:{n.quorum_port}:tidemark-lab-back000{n.number}A" for n in nodes)
    for node in nodes:
        done = tidemark("format", "--cluster-id", "tidemark-lab-restord0A", "--config", node.config, *words,
                        "--initial-voters", voters, "--restore", where[0])
        assert "group beyond: offset" in done.stderr or node is not nodes[0], done.stderr
    for node in nodes:
        node.start(*settings)
    for node in nodes:
        node.wait_ready()

    def there():
        topics = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=10).topics
        names = {TOPIC, "prices", "__consumer_offsets"}
        return names <= topics.keys() and all(p.leader >= 0 for name in names for p in topics[name].partitions.values())
    wait_until(there, 30, "topics being back", every=0.5)
    print(f"a new cluster has the topics after {time.monotonic() - began:.1f} s", flush=True)
    wait_until(lambda: committed(bootstrap, "group-0", 0) == middles[0], 30, "groups being back", every=0.5)
    assert [committed(bootstrap, f"group-{p}", p) for p in range(PARTITIONS)] == middles
    assert committed(bootstrap, "beyond", 1) == bounds[1][1]
    one = consumer(bootstrap)
    for partition, (low, high) in enumerate(bounds):
        offsets = [offset for offset in sorted(load.acked[partition]) if offset >= low]
        found = read(one, partition, low, len(offsets), 120)
        assert [offset for offset, _, _ in found] == offsets
        assert all(value == value_of(partition, load.acked[partition][offset]) for offset, _, value in found)
    table = {}
    one.assign([TopicPartition("prices", 0, 0)])
    deadline = time.monotonic() + 60
    while one.position([TopicPartition("prices", 0)])[0].offset < 3000:
        assert time.monotonic() < deadline, "the compacted topic does not come to its end"
        message = one.poll(1)
        if message is not None and not message.error():
            table[message.key().decode()] = message.value().decode()
    assert table == prices
    print(f"everything read again, groups are where they were, after {time.monotonic() - began:.1f} s", flush=True)

    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True})
    for partition in range(PARTITIONS):
        producer.produce(TOPIC, value_of(partition, 10**9), partition=partition)
    assert producer.flush(60) == 0
    for partition, (_, high) in enumerate(bounds):
        (at, _, value), = read(one, partition, high, 1)
        assert (at, value) == (high, value_of(partition, 10**9))
    one.close()

    def in_bucket():
        rows = json.loads(tidemark("tier", "ls", *where, "-o", "json").stdout)
        return all(row["end_offset"] == bounds[row["partition"]][1] + 1 and row["generation"] == 2
                   for row in rows if row["topic"] == TOPIC)
    wait_until(in_bucket, 60, "what came after to be in the bucket", every=1)
    verified = tidemark("tier", "verify", "--deep", *where, "-o", "json", check=False)
    findings = [f for f in json.loads(verified.stdout)["findings"] if f["kind"] != "orphan"]
    assert not findings, findings
    for node in nodes:
        end(node.process)
        assert node.process.returncode == 0, f"broker {node.number} ended with {node.process.returncode}"


if __name__ == "__main__":
    main()
