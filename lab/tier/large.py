"""Tiered storage with much in the bucket. Each part has a cluster of three brokers and an S3 server of its own:

keep       SIZE over several topics; the disks are sampled each second against their bound; leaders are killed and the
           bucket is away meanwhile; records are read at offsets and times of chance; everything is deleted, restored,
           and read again; groups resume.
same       processor per GB, acknowledgement p99 and start with SIZE kept, against a hundredth of it.
move       a partition with SIZE/2 in the bucket and little hot is reassigned: what moves between brokers.
cold       catching up from the bucket against a plain parallel GET of the same objects, with one on the same processors
           and one that is 10 ms away and sends 1 Gbit/s (what would be on other machines has the least priority
           then); tailing p99 with and without a cold reader of that one, and beside plain GETs, which take as much
           of this machine; requests and bytes per GB, up and down.
manifests  memory of a broker with --partitions tiered partitions.
"""

import argparse
import array
import concurrent.futures
import contextlib
import datetime
import json
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from cluster import IDS, Node, end
from labkit.paths import LAB, wait_until
from link import Link, leave_the_processors_to_others
from main import tidemark
from store import BUCKET, PREFIX, Store, get_object

MB, GB = 1_000_000, 1_000_000_000
LEAST_SEGMENT = 1 << 20
PARTITIONS = 3
WAL_BYTES = 64 << 20
PATIENCE = 6 * 3600
TAILS = 3
SPAWN = multiprocessing.get_context("spawn")


def say(text):
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)


def size_of(text):
    for unit, factor in (("GB", GB), ("MB", MB), ("KB", 1000), ("", 1)):
        if text.upper().endswith(unit):
            return int(float(text[:len(text) - len(unit)]) * factor)
    raise AssertionError


def value_of(topic, partition, sequence, size):
    """Says what it is, and has a checksum over all of it."""
    head = f"{topic} {partition} {sequence} ".encode()
    body = (head * (size // len(head) + 1))[:size - 8]
    return b"%08x" % zlib.crc32(body) + body


def checked(topic, partition, value):
    """The sequence of a value, which has to be one of that partition."""
    assert int(value[:8], 16) == zlib.crc32(value[8:]), f"{topic}-{partition}: a checksum"
    of_topic, of_partition, sequence = value[8:80].split(b" ")[:3]
    assert (of_topic.decode(), int(of_partition)) == (topic, partition), f"{topic}-{partition}: a record of {value[8:60]}"
    return int(sequence)


class Cluster:
    """Three brokers and a bucket."""

    def __init__(self, work, wanted, count=len(IDS)):
        self.work, self.store = work, Store(work, volumes=wanted * 3 // (256 << 20) + 50)
        self.nodes = [Node(number, work) for number in IDS[:count]]
        self.url = f"s3://{BUCKET}/{PREFIX}"
        self.where = [self.url, "--endpoint", self.store.endpoint, "--region", "us-east-1"]
        self.bootstrap = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def settings(self):
        return [f"tier.url={self.url}", f"tier.endpoint={self.store.endpoint}", "tier.region=us-east-1",
                "tier.upload.max.lag.ms=5000", "log.retention.check.interval.ms=1000",
                "wal.file.bytes=16777216", f"wal.max.bytes={WAL_BYTES}", f"wal.memory.bytes={WAL_BYTES}"]

    def start(self):
        self.store.start()
        for node in self.nodes:
            node.format(self.nodes)
        self.run()

    def run(self):
        for node in self.nodes:
            node.start(*self.settings)
        for node in self.nodes:
            node.wait_ready(600)

    def admin(self):
        return AdminClient({"bootstrap.servers": self.bootstrap})

    def create(self, topic, partitions=PARTITIONS, replicas=3, **config):
        config = {key.replace("_", "."): str(value) for key, value in config.items()} | {"remote.storage.enable": "true"}
        admin = self.admin()
        admin.create_topics([NewTopic(topic, partitions, replicas, config=config)])[topic].result(60)

    def metric(self, name):
        """Its sum over all brokers, and over its series."""
        total = 0.0
        for node in self.nodes:
            with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
            total += sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
        return total

    def in_bucket(self):
        done = tidemark("tier", "ls", *self.where, "-o", "json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else []

    def wait_tiered(self, ends):
        def there():
            have = {(row["topic"], row["partition"]): row["end_offset"] for row in self.in_bucket()}
            return all(have.get(at) == end for at, end in ends.items())
        wait_until(there, 3600, "everything to be in the bucket", every=2)

    def wait_local(self, most, topics):
        """Until what is local of each partition is at most so much."""
        wait_until(lambda: all(bytes_below(node.dir / "logs" / f"{topic}-{p}", "*.log") <= most
                               for node in self.nodes for topic in topics for p in range(PARTITIONS)), 600, "local retention")

    def leader(self, topic, partition):
        return self.admin().list_topics(topic, timeout=20).topics[topic].partitions[partition].leader

    def end(self):
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                node.kill()
        if self.store.process and self.store.process.poll() is None:
            self.store.back()
            self.store.process.kill()
            self.store.process.wait(10)
        if self.store.link:
            self.store.link.end()


def bytes_below(folder, pattern="**/*"):
    total = 0
    for file in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # it was deleted meanwhile
            if file.is_file():
                total += file.stat().st_size
    return total


class Written:
    """Produces to topics in turn, and remembers what was acknowledged where: offsets by sequence."""

    def __init__(self, cluster, topics, size):
        self.cluster, self.topics, self.size = cluster, topics, size
        self.offsets = {(t, p): array.array("q") for t in topics for p in range(PARTITIONS)}
        self.bytes, self.failed = 0, []
        self.producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 5,
                                  "delivery.timeout.ms": 600_000, "batch.size": 1 << 20, "queue.buffering.max.kbytes": 128 << 10})

    def told(self, error, message):
        if error:
            self.failed.append(str(error))
            return
        at = self.offsets[message.topic(), message.partition()]
        sequence = checked(message.topic(), message.partition(), message.value())
        assert sequence == len(at) and (not at or at[-1] < message.offset()), f"{message.topic()}-{message.partition()}: order"
        at.append(message.offset())
        self.bytes += len(message.value())

    def more(self, total, rate=None, meanwhile=lambda: None):
        """Until so many bytes more are acknowledged."""
        until, began = self.bytes + total, time.monotonic()
        first, sent = self.bytes, 0
        sequences = {at: len(offsets) for at, offsets in self.offsets.items()}
        while sent < total:
            for topic, partition in self.offsets:
                value = value_of(topic, partition, sequences[topic, partition], self.size)
                while True:
                    try:
                        self.producer.produce(topic, value, partition=partition, on_delivery=self.told)
                        break
                    except BufferError:
                        self.producer.poll(0.1)
                sequences[topic, partition] += 1
                sent += self.size
            self.producer.poll(0)
            meanwhile()
            ahead = sent / rate - (time.monotonic() - began) if rate else 0
            if ahead > 0:
                time.sleep(ahead)
        assert self.producer.flush(900) == 0, "not all records were answered"
        assert not self.failed, self.failed[:3]
        assert self.bytes - first >= total, (self.bytes, until)

    def ends(self):
        return {at: offsets[-1] + 1 for at, offsets in self.offsets.items()}


def consumer(bootstrap, group="lab"):
    return Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False,
                     "auto.offset.reset": "error", "check.crcs": True, "fetch.message.max.bytes": 4 << 20})


def read_all(cluster, written, note=lambda count: None):
    """Every record of every partition, in its order."""
    one = consumer(cluster.bootstrap)
    for (topic, partition), offsets in written.offsets.items():
        one.assign([TopicPartition(topic, partition, 0)])
        sequence, deadline = 0, time.monotonic() + PATIENCE
        while sequence < len(offsets):
            assert time.monotonic() < deadline, f"{topic}-{partition}: {sequence} of {len(offsets)}"
            for message in one.consume(1000, 1):
                if message.error():
                    raise KafkaException(message.error())
                assert (message.offset(), checked(topic, partition, message.value())) == (offsets[sequence], sequence)
                note(len(message.value()))
                sequence += 1
    one.close()


def read_at_chance(cluster, written, chance, times):
    """Records at offsets and times of chance; how many."""
    one, count = consumer(cluster.bootstrap), 0
    for _ in range(times):
        topic, partition = chance.choice(list(written.offsets))
        sequence = chance.randrange(len(written.offsets[topic, partition]))
        offset = written.offsets[topic, partition][sequence]
        message = first(one, TopicPartition(topic, partition, offset))
        assert (message.offset(), checked(topic, partition, message.value())) == (offset, sequence)
        when = message.timestamp()[1]
        answer, = one.offsets_for_times([TopicPartition(topic, partition, when)], timeout=60)
        assert 0 <= answer.offset <= offset, (topic, partition, when, answer.offset, offset)
        found = first(one, TopicPartition(topic, partition, answer.offset))
        assert found.timestamp()[1] >= when and checked(topic, partition, found.value()) <= sequence
        if answer.offset > 0:
            before = first(one, TopicPartition(topic, partition, answer.offset - 1))
            assert before.timestamp()[1] < when, (topic, partition, when, answer.offset)
        count += 1
    one.close()
    return count


def first(one, at, seconds=120):
    one.assign([at])
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        message = one.poll(1)
        if message is not None:
            if message.error():
                raise KafkaException(message.error())
            return message
    raise AssertionError(f"{at} gives nothing within {seconds} s")


class Disks:
    """Samples each second what the brokers' directories take."""

    def __init__(self, cluster, bound):
        self.cluster, self.bound, self.most, self.over, self.samples = cluster, bound, 0, [], 0
        self.exempt, self.stop = False, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.stop.wait(1):
            for node in self.cluster.nodes:
                took = bytes_below(node.dir)
                if self.exempt:
                    continue
                self.samples += 1
                self.most = max(self.most, took)
                if took > self.bound:
                    self.over.append(took)

    def done(self):
        self.stop.set()
        self.thread.join(60)
        return self.most, len(self.over), self.samples


def keep(work, chosen, rows):
    topics = ["orders", "clicks", "prices", "events"]
    chance = random.Random(chosen.seed)
    hot = max(chosen.size // 100, 2 * MB)
    segment = max(hot // 8, LEAST_SEGMENT)
    cluster = Cluster(work, chosen.size)
    try:
        cluster.start()
        for topic in topics:
            cluster.create(topic, segment_bytes=segment, local_retention_bytes=hot, file_delete_delay_ms=1000)
        partitions = len(topics) * PARTITIONS
        # Local retention, an active segment and one on its way for each, the write-ahead log, metadata; a tenth more.
        bound = int(1.1 * (partitions * (hot + 2 * segment) + WAL_BYTES + 32 * MB))
        written, disks = Written(cluster, topics, chosen.value_bytes), Disks(cluster, bound)
        written.more(chosen.size // 3, rate=chosen.keep_rate)
        say("the bucket goes away for 20 s")
        disks.exempt = True  # until it is back and has caught up, local records stay
        cluster.store.away()
        back = time.monotonic() + 20
        written.more(min(chosen.size // 12, 20 * 20 * MB), rate=20 * MB)
        time.sleep(max(0, back - time.monotonic()))
        cluster.store.back()
        cluster.wait_tiered(written.ends())
        cluster.wait_local(hot + 2 * segment, topics)
        disks.exempt = False
        for _ in range(3):
            leader = cluster.leader(chance.choice(topics), 0)
            say(f"broker {leader} is killed")
            cluster.nodes[leader - 1].kill()
            written.more(chosen.size // 12, rate=chosen.keep_rate)
            cluster.nodes[leader - 1].start(*cluster.settings)
            cluster.nodes[leader - 1].wait_ready(600)
        written.more(max(chosen.size - written.bytes, MB), rate=chosen.keep_rate)
        cluster.wait_tiered(written.ends())
        cluster.wait_local(hot + 2 * segment, topics)
        most, over, samples = disks.done()
        rows.add("keep", "disk of a broker at most, of what it may take", f"{most / MB:,.0f} of {bound / MB:,.0f} MB, {samples} samples at {chosen.keep_rate / MB:g} MB/s",
                 "never above local retention, active segments, write-ahead log and a tenth", over == 0)
        began, count = time.monotonic(), read_at_chance(cluster, written, chance, chosen.reads)
        rows.add("keep", "reads by offset and by time, at chance", f"{count} in {time.monotonic() - began:.0f} s", "all right", True)
        read_all(cluster, written)
        verified = json.loads(tidemark("tier", "verify", "--deep", *cluster.where, "-o", "json", check=False).stdout)
        wrong = [f for f in verified["findings"] if f["kind"] != "orphan"]
        rows.add("keep", "tier verify --deep", f"{len(wrong)} findings", "none", not wrong)
        ends = written.ends()
        middles = {at: end // 2 for at, end in ends.items()}
        group = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "shippers"})
        group.commit(offsets=[TopicPartition(t, p, offset) for (t, p), offset in middles.items()], asynchronous=False)
        group.close()

        def backed_up():
            done = tidemark("tier", "restore", *cluster.where, "--dry-run", "-o", "json", check=False)
            plan = json.loads(done.stdout) if done.returncode == 0 else {"topics": []}
            return any(t["name"] == "__consumer_offsets" and sum(p["end_offset"] for p in t["partitions"]) >= len(middles)
                       for t in plan["topics"])
        wait_until(backed_up, 300, "the group's offsets to be in the bucket", every=2)
        for node in cluster.nodes:
            node.kill()
            shutil.rmtree(node.dir)
            node.dir.mkdir()
        say("all brokers and disks are gone")
        began = time.monotonic()
        words = [word for setting in cluster.settings for word in ("--set", setting)]
        voters = ",".join(f"{n.number}@127.0.0.1:{n.quorum_port}:tidemark-lab-back000{n.number}A" for n in cluster.nodes)
        for node in cluster.nodes:
            tidemark("format", "--cluster-id", "tidemark-lab-restord0A", "--config", node.config, *words,
                     "--initial-voters", voters, "--restore", cluster.url)
        cluster.run()

        def there():
            known = cluster.admin().list_topics(timeout=10).topics
            names = {*topics, "__consumer_offsets"}
            return names <= known.keys() and all(p.leader >= 0 for name in names for p in known[name].partitions.values())
        wait_until(there, 300, "topics being back", every=0.5)
        rows.add("keep", "from no disk to topics with leaders", f"{time.monotonic() - began:.1f} s", "", True)
        group = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "shippers"})
        asked = [TopicPartition(t, p) for t, p in middles]
        resumed = wait_until(lambda: {(c.topic, c.partition): c.offset for c in group.committed(asked, timeout=30)} == middles, 60,
                             "the group being where it was", every=1)
        group.close()
        rows.add("keep", "group where it was", "yes", "yes", resumed)
        read_all(cluster, written)
        rows.add("keep", "all of it read again", f"{sum(map(len, written.offsets.values())):,} records", "every one", True)
    finally:
        cluster.end()


def same(work, chosen, rows):
    small = max(chosen.size // 100, 10 * MB)
    cluster = Cluster(work, chosen.size)
    try:
        cluster.start()
        cluster.create("kept", segment_bytes=max(small // 8, LEAST_SEGMENT), local_retention_bytes=small, file_delete_delay_ms=1000)
        written = Written(cluster, ["kept"], chosen.value_bytes)
        measured = []
        for total in (small, chosen.size):
            written.more(max(total - written.bytes, chosen.value_bytes))
            cluster.wait_tiered(written.ends())
            cluster.wait_local(small + 2 * max(small // 8, LEAST_SEGMENT), ["kept"])
            tails, cpu = [], cluster.metric("tidemark_cpu_seconds_total")
            for index in range(TAILS):
                topic = f"live-{total}-{index}"
                cluster.create(topic, segment_bytes=max(small // 8, LEAST_SEGMENT), local_retention_bytes=small)
                tails.append(tail(cluster.bootstrap, topic, chosen.seconds, chosen.rate))
            cpu = (cluster.metric("tidemark_cpu_seconds_total") - cpu) / (sum(told["bytes"] for told in tails) / GB)
            p99_ms = statistics.median(told["p99_ms"] for told in tails)
            node = cluster.nodes[0]
            end(node.process)
            began = time.monotonic()
            node.start(*cluster.settings)
            node.wait_ready(600)
            measured.append((cpu, p99_ms, time.monotonic() - began))
            wait_until(lambda: cluster.metric("tidemark_under_replicated_partitions") == 0, 120, "replicas being in sync", every=1)
        for name, unit, before, after in zip(("processor per GB", "produce to read, p99", "start"), ("s", "ms", "s"), *measured):
            rows.add("same", name, f"{after:.2f} {unit} with {chosen.size / GB:g} GB, {before:.2f} with {small / GB:g}: {after / before:.2f}x",
                     "at most 1.1x", after <= 1.1 * before)
    finally:
        cluster.end()


def tail_in_process(bootstrap, topic, seconds, rate, results):
    """Produces at a rate and reads at the end of the log; how long each record took."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0})
    one, took, sent = consumer(bootstrap, "tail"), [], 0
    one.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    over, last = time.monotonic() + seconds, 0
    began, due = time.monotonic(), time.monotonic()
    while time.monotonic() < over or last < sent:
        now = time.monotonic()
        while due <= now and now < over:
            producer.produce(topic, b"%.6f " % time.time() + b"x" * 1000, partition=(sent % PARTITIONS))
            sent += 1
            due = began + sent * 1020 / rate
        producer.poll(0)
        for message in one.consume(500, 0.002):
            assert not message.error(), message.error()
            took.append(time.time() - float(message.value().split(b" ", 1)[0]))
            last += 1
        assert now < over + 120, f"{last} of {sent} records were read"
    took.sort()
    results.put({"bytes": sent * 1020, "p99_ms": 1000 * took[int(0.99 * len(took))], "records": sent})


def tail(bootstrap, topic, seconds, rate):
    # What was written before is not to be what the disk is busy with.
    os.sync()
    results = SPAWN.Queue()
    one = SPAWN.Process(target=tail_in_process, args=(bootstrap, topic, seconds, rate, results), daemon=True)
    one.start()
    told = results.get(timeout=seconds + 180)
    one.join(30)
    return told


def loopback_bytes():
    return int(Path("/sys/class/net/lo/statistics/tx_bytes").read_text())


def move(work, chosen, rows):
    cold = chosen.size // 2
    hot = min(100 * MB, max(cold // 20, 4 * MB))
    segment = max(hot // 10, LEAST_SEGMENT)
    cluster = Cluster(work, cold)
    try:
        cluster.start()
        cluster.create("moved", partitions=PARTITIONS, replicas=1, segment_bytes=segment, local_retention_bytes=hot, file_delete_delay_ms=1000)
        written = Written(cluster, ["moved"], chosen.value_bytes)
        written.offsets = {at: offsets for at, offsets in written.offsets.items() if at[1] == 0}
        written.more(cold)
        cluster.wait_tiered(written.ends())
        cluster.wait_local(hot + 2 * segment, ["moved"])
        before = cluster.leader("moved", 0)
        to = next(number for number in IDS if number != before)
        time.sleep(3)  # what else goes over the network has come to rest
        bytes_before, began = loopback_bytes(), time.monotonic()
        plan = work / "plan.json"
        plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": "moved", "partition": 0, "replicas": [to]}]}))
        tidemark("-b", cluster.bootstrap, "cluster", "reassign", "--plan", plan, "--execute")
        wait_until(lambda: cluster.leader("moved", 0) == to, 600, "the partition's move", every=0.2)
        took, moved = time.monotonic() - began, loopback_bytes() - bytes_before
        # All that went over the loopback meanwhile: the copy, and what three brokers always say to each other.
        rows.add("move", f"a partition of {written.bytes / MB:,.0f} MB, {hot / MB:,.0f} MB of them hot",
                 f"{moved / MB:,.1f} MB over the loopback in {took:.1f} s", f"at most {1.2 * hot / MB:,.0f} MB", moved <= 1.2 * hot)
        read_at_chance(cluster, written, random.Random(chosen.seed), 20)
    finally:
        cluster.end()


def catch_up_in_process(bootstrap, topic, ends, far, results):
    """Reads a topic from its beginning, as fast as it goes."""
    if far:
        leave_the_processors_to_others()
    one, took, began = consumer(bootstrap, "cold"), 0, time.monotonic()
    one.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    done = set()
    while len(done) < PARTITIONS:
        for message in one.consume(1000, 1):
            assert not message.error(), message.error()
            took += len(message.value())
            if message.offset() == ends[message.partition()] - 1:
                done.add(message.partition())
    results.put((took, time.monotonic() - began))


def catch_up(cluster, topic, ends, far=False):
    results = SPAWN.Queue()
    one = SPAWN.Process(target=catch_up_in_process, args=(cluster.bootstrap, topic, ends, far, results), daemon=True)
    one.start()
    return one, results


def get_all(url, keys, at_once):
    """A plain GET of objects, so many at a time; bytes a second."""
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        total = sum(pool.map(lambda key: len(get_object(url, key)), keys))
    return total / (time.monotonic() - began)


def gets_in_process(url, keys):
    leave_the_processors_to_others()
    while True:
        get_all(url, keys, 10)


def gets(cluster, keys):
    """Plain GETs of objects again and again, until it is killed."""
    one = SPAWN.Process(target=gets_in_process, args=(cluster.store.objects, keys), daemon=True)
    one.start()
    return one


def catching_up(cluster, rows, where, keys, ends, far):
    """How fast a cold reader is, against plain GETs."""
    # Twice: neither of the two is to be the first to read the store's files.
    plain = max(get_all(cluster.store.objects, keys, 10) for _ in range(2))
    rates = []
    for _ in range(2):
        one, results = catch_up(cluster, "history", ends, far)
        took, seconds = results.get(timeout=PATIENCE)
        one.join(30)
        rates.append(took / seconds)
    fastest = max(rates)
    rows.add("cold", f"bucket {where}: catching up, against ten GETs at a time", f"{fastest / MB:,.0f} MB/s, {plain / MB:,.0f} MB/s: {fastest / plain:.2f}x",
             "0.8x or better", fastest >= 0.8 * plain)


def tail_beside(cluster, chosen, rows, keys, ends):
    """What a cold reader takes from one that tails."""
    # Beside nobody; beside plain GETs of the same objects, which take as much of this machine as a bucket and its reader
    # do that are somewhere else; beside a cold reader.
    others = {"alone": None, "gets": lambda: (gets(cluster, keys), None), "reader": lambda: catch_up(cluster, "history", ends, far=True)}
    p99_ms = {who: [] for who in others}
    for index in range(TAILS):
        for who, begin in others.items():
            # A topic for each: tailing begins at the first record.
            topic = f"{who}-{index}"
            cluster.create(topic, local_retention_bytes=chosen.size)
            # What it tells has to have somewhere to go, as long as it runs.
            other, _results = begin() if begin else (None, None)
            p99_ms[who].append(tail(cluster.bootstrap, topic, chosen.seconds, chosen.rate)["p99_ms"])
            if other:
                assert other.is_alive(), "it was done before: give it a larger --size"
                other.kill()
    alone, beside_gets, beside_reader = (statistics.median(found) for found in p99_ms.values())
    rows.add("cold", "produce to read p99, without and with a cold reader",
             f"{alone:.1f} and {beside_reader:.1f} ms: {beside_reader / alone:.2f}x; beside plain GETs {beside_gets:.1f} ms", "at most 1.2x", beside_reader <= 1.2 * alone)


def cold(work, chosen, rows):
    hot = max(chosen.size // 100, 2 * MB)
    segment = max(chosen.size // 300, LEAST_SEGMENT)
    cluster = Cluster(work, chosen.size)
    try:
        cluster.start()
        cluster.create("history", segment_bytes=segment, local_retention_bytes=hot, file_delete_delay_ms=1000)
        written = Written(cluster, ["history"], chosen.value_bytes)
        requests = cluster.store.requests()
        written.more(chosen.size)
        cluster.wait_tiered(written.ends())
        cluster.wait_local(hot + 2 * segment, ["history"])
        up = counted(cluster, requests)
        held = sum(row["bytes"] for row in cluster.in_bucket() if row["topic"] == "history")
        rows.add("cold", "requests to upload 1 GB", per_gb(up, written.bytes), "", True)
        rows.add("cold", "bytes uploaded for 1 GB", f"{held / written.bytes:.3f} GB, and read back as many", "", True)

        ends = [end for (_, _), end in sorted(written.ends().items())]
        requests, read = cluster.store.requests(), cluster.metric("tidemark_tier_read_bytes_total")
        one, results = catch_up(cluster, "history", ends)
        took, seconds = results.get(timeout=PATIENCE)
        one.join(30)
        down = counted(cluster, requests)
        rows.add("cold", "requests to read 1 GB", per_gb(down, took), "", True)
        rows.add("cold", "bytes from the bucket for 1 GB read", f"{(cluster.metric('tidemark_tier_read_bytes_total') - read) / took:.3f} GB", "", True)
        keys = [key for folder in {key.rsplit("/", 1)[0] for key in cluster.store.list_keys("") if key.endswith(".segment")}
                for key in cluster.store.list_keys(f"{folder}/") if key.endswith(".segment")]
        catching_up(cluster, rows, "on the same processors", keys, ends, far=False)
        cluster.store.link = Link(cluster.store.host, cluster.store.port)
        leave_the_processors_to_others(cluster.store.process.pid)
        for node in cluster.nodes:
            end(node.process)
        cluster.run()
        catching_up(cluster, rows, "10 ms away, 1 Gbit/s", keys, ends, far=True)
        tail_beside(cluster, chosen, rows, keys, ends)
    finally:
        cluster.end()


def counted(cluster, before):
    return {kind: count - before.get(kind, 0) for kind, count in cluster.store.requests().items() if count > before.get(kind, 0)}


def per_gb(requests, total):
    return ", ".join(f"{kind} {count / (total / GB):,.1f}" for kind, count in sorted(requests.items()))


def manifests(work, chosen, rows):
    cluster = Cluster(work, GB, count=1)
    node = cluster.nodes[0]
    try:
        cluster.start()

        def resident():
            return int(Path(f"/proc/{node.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        admin, before = cluster.admin(), resident()
        for part in range(0, chosen.partitions, 1000):
            count = min(1000, chosen.partitions - part)
            made = admin.create_topics([NewTopic(f"many-{part}", count, 1, config={"remote.storage.enable": "true"})], request_timeout=300)
            made[f"many-{part}"].result(300)
        opened = resident()
        producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all", "linger.ms": 50})
        for part in range(0, chosen.partitions, 1000):
            for index in range(min(1000, chosen.partitions - part)):
                producer.produce(f"many-{part}", b"x", partition=index)
                producer.poll(0)
        assert producer.flush(300) == 0
        wait_until(lambda: sum(row["end_offset"] > 0 for row in cluster.in_bucket()) == chosen.partitions, 3600,
                   "a manifest of each partition", every=5)
        tiered = resident()
        end(node.process)
        node.start(*cluster.settings)
        node.wait_ready(600)
        wait_until(lambda: cluster.metric("tidemark_tier_lag_seconds") == 0, 600, "the broker to know its manifests", every=1)
        rows.add("manifests", f"memory with {chosen.partitions:,} partitions and their manifests",
                 f"{before / MB:.0f} MB empty, {opened / MB:.0f} open, {tiered / MB:.0f} tiered, {resident() / MB:.0f} after a start: "
                 f"{(tiered - opened) / chosen.partitions:,.0f} bytes for each manifest", "", True)
    finally:
        cluster.end()


class Rows:
    def __init__(self):
        self.all = []

    def add(self, part, what, found, bar, good):
        self.all.append((part, what, found, bar, ("ok" if good else "MISSED") if bar else ""))
        say(" | ".join(self.all[-1]))

    def table(self):
        lines = [("part", "what", "measured", "bar", "verdict"), *self.all]
        widths = [max(map(len, column)) for column in zip(*lines)]
        text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
        text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(text)

    def missed(self):
        return any(row[-1] == "MISSED" for row in self.all)


PARTS = {"keep": keep, "same": same, "move": move, "cold": cold, "manifests": manifests}


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size_of, default="20GB", help="how much is kept in the bucket")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by their names")
    parser.add_argument("--value-bytes", type=int, default=10_240)
    parser.add_argument("--reads", type=int, default=200, help="records read at chance")
    parser.add_argument("--seconds", type=int, default=30, help="how long tailing is measured")
    parser.add_argument("--rate", type=size_of, default="5MB", help="bytes a second of what is tailed")
    parser.add_argument("--keep-rate", type=size_of, default="30MB", help="bytes a second that keep writes: no more than is uploaded meanwhile")
    parser.add_argument("--partitions", type=int, default=10_000, help="of the part manifests")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--record", action="store_true", help="adds the table to lab/results/DATE-tier.md")
    chosen = parser.parse_args()
    chosen.only = chosen.only.split(",")
    unknown = set(chosen.only) - set(PARTS)
    assert not unknown, f"no part named {unknown}: {', '.join(PARTS)}"
    return chosen


def main():
    chosen, rows, began = options(), Rows(), time.monotonic()
    os.environ.update(AWS_ACCESS_KEY_ID="any", AWS_SECRET_ACCESS_KEY="any")
    say(f"seed {chosen.seed}")
    for name in chosen.only:
        with tempfile.TemporaryDirectory(prefix="tidemark-tier-", dir=os.environ.get("TMPDIR")) as work:
            try:
                PARTS[name](Path(work), chosen, rows)
            except BaseException:
                for log in sorted(Path(work).glob("*.log")):
                    print(f"--- {log.name}\n{log.read_text(errors='replace')[-2500:]}", file=sys.stderr)
                raise
    print(rows.table(), flush=True)
    if chosen.record:
        path = LAB / "results" / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-tier.md"
        if not path.exists():
            path.write_text("# Much in the bucket\n\n")
        with path.open("a") as out:
            out.write(f"{platform.system()} {platform.release()}, {os.cpu_count()} processors, three brokers and SeaweedFS as S3 on one machine; "
                      f"{chosen.size / GB:g} GB of values of {chosen.value_bytes:,} bytes, {time.monotonic() - began:.0f} s\n\n{rows.table()}\n\n")
        say(f"recorded in {path.relative_to(LAB.parent)}")
    sys.exit(1 if rows.missed() else 0)


if __name__ == "__main__":
    main()
