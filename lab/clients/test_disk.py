"""Kafka's files: Kafka's dump tool reads ours, and we take what Kafka wrote."""

import re
import shutil

import pytest

from labkit import admin
from labkit.broker import Broker, tidemark, tool
from labkit.paths import unique, wait_until
from labkit.workers import record

# Of long ago: the topics keep for ever.
T0 = 1_700_000_000_000


def written(worker, bootstrap, topic, rounds=6):
    """Batches of every codec with keys, headers and nulls, from two clients; all that was sent."""
    sent = []
    codecs = ["none", "gzip", "snappy", "lz4", "zstd"]
    for at in range(rounds):
        for codec in codecs:
            records = [record(f"{codec} {at} {i} ".encode() * 40 if i % 9 else None, f"key {i}".encode(),
                              [("codec", codec.encode()), ("nothing", None)] if i % 4 == 0 else (), partition=0,
                              timestamp_ms=T0 + len(sent) + i) for i in range(60)]
            worker("java-4.3" if at % 2 else "confluent").call(
                "produce", bootstrap=bootstrap, topic=topic, codec=codec, idempotent=bool(at % 2), records=records)
            sent += records
    return sent


def test_kafkas_dump_tool_reads_the_segments(own_broker, worker):
    broker = own_broker()
    topic = admin.create(broker.bootstrap, unique("dumped"), 1,
                         {"segment.bytes": "1048576", "index.interval.bytes": "1024", "retention.ms": "-1"})
    sent = written(worker, broker.bootstrap, topic)
    sent += [record(b"x" * 90_000, partition=0) for _ in range(25)]
    for one in sent[-25:]:
        worker("confluent").call("produce", bootstrap=broker.bootstrap, topic=topic, records=[one])
    folder = broker.partition_dir(topic, 0)
    broker.stop()
    logs = sorted(folder.glob("*.log"))
    assert len(logs) >= 2 and logs[0].name == "0" * 20 + ".log"
    offsets = []
    dumped = tool("DumpLogSegments", "--deep-iteration", "--files", ",".join(map(str, logs)), seconds=60)
    for line in dumped.splitlines():
        found = re.match(r"\|? *offset: (\d+) ", line)
        if found:
            offsets.append(int(found.group(1)))
        assert "isvalid: false" not in line
    assert offsets == list(range(len(sent)))
    codecs = set(re.findall(r"compresscodec: (\w+)", dumped))
    assert {"none", "gzip", "snappy", "lz4", "zstd"} <= codecs
    indexes = [*sorted(folder.glob("*.index")), *sorted(folder.glob("*.timeindex"))]
    assert len(indexes) == 2 * len(logs)
    checked = tool("DumpLogSegments", "--index-sanity-check", "--files", ",".join(map(str, indexes)))
    assert checked.count("passed sanity check") == len(indexes), checked
    verified = tool("DumpLogSegments", "--files", ",".join(map(str, indexes)))
    for complaint in ("Mismatches", "not indexed", "Found timestamp mismatch", "out of order", "Index offset"):
        assert complaint not in verified, verified[-3000:]
    assert re.search(r"offset: \d+ position: [1-9]", verified), "the indexes are empty"
    snapshots = sorted(folder.glob("*.snapshot"))
    if snapshots:
        assert "producerId" in tool("DumpLogSegments", "--files", snapshots[-1])
    assert (folder / "leader-epoch-checkpoint").read_text().startswith("0\n")


def test_kafkas_dump_tool_reads_committed_offsets(own_broker, worker):
    """The coordinator's own topic is in Kafka's record format."""
    from confluent_kafka import Consumer, TopicPartition

    broker = own_broker({"offsets.topic.num.partitions": "1"})
    topic = admin.create(broker.bootstrap, unique("seen"), 1)
    worker("confluent").call("produce", bootstrap=broker.bootstrap, topic=topic, records=[record(b"x", partition=0)])
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "dumped-group", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    wait_until(lambda: consumer.poll(0.2), what="the record")
    consumer.commit(offsets=[TopicPartition(topic, 0, 1, metadata="dumped")], asynchronous=False)
    consumer.close()
    folder = broker.partition_dir("__consumer_offsets", 0)
    broker.stop()
    dumped = tool("DumpLogSegments", "--offsets-decoder", "--deep-iteration", "--files",
                  ",".join(map(str, sorted(folder.glob("*.log")))))
    assert '"group":"dumped-group"' in dumped and f'"topic":"{topic}"' in dumped and '"metadata":"dumped' in dumped
    assert '"protocolType":"consumer"' in dumped  # the group itself, with its members


@pytest.fixture(scope="module")
def written_by_kafka(tmp_path_factory):
    """A partition folder of Apache Kafka: every codec, several segments, its beginning deleted."""
    from labkit.workers import Worker
    from confluent_kafka import TopicPartition

    workers = {name: Worker(name) for name in ("confluent", "java-4.3")}
    kafka = Broker(kind="kafka", name="peer").start()
    try:
        topic = admin.create(kafka.bootstrap, "from-kafka", 1,
                             {"segment.bytes": "1048576", "retention.ms": "-1", "file.delete.delay.ms": "0"})
        sent = written(workers.__getitem__, kafka.bootstrap, topic)
        blobs = [record(f"blob {i} ".encode() * 9000, partition=0, timestamp_ms=T0 + 10_000 + i) for i in range(30)]
        workers["confluent"].call("produce", bootstrap=kafka.bootstrap, topic=topic, records=blobs)
        sent += blobs
        start = 700
        at = TopicPartition(topic, 0, start)
        admin.client(kafka.bootstrap).delete_records([at])[at].result(15)
        assert admin.offset(kafka.bootstrap, topic) == len(sent)
        kafka.stop()
        copy = tmp_path_factory.mktemp("imported") / f"{topic}-0"
        shutil.copytree(kafka.partition_dir(topic, 0), copy)
        yield copy, sent, start
    finally:
        for one in workers.values():
            one.close()
        kafka.discard()


@pytest.mark.ours
@pytest.mark.xdist_group("disk")
def test_a_partition_written_by_kafka_is_taken_with_its_offsets(own_broker, worker, written_by_kafka):
    folder, sent, start = written_by_kafka
    broker = own_broker()
    running = tidemark("topic", "import", "--data", broker.data, folder, check=False)
    assert running.returncode == 1 and "stop it" in running.stderr
    broker.stop()
    # Kafka's topic kept them; ours would by default not, and the import does not let that happen.
    refused = tidemark("topic", "import", "--data", broker.data, folder, check=False)
    assert refused.returncode == 1 and "--set retention.ms=-1" in refused.stderr
    said = tidemark("topic", "import", "--data", broker.data, "--set", "retention.ms=-1", folder)
    assert re.search(rf"from-kafka +0 +\d+ +{len(sent)} ", said), said
    broker.start()
    at = broker.bootstrap
    low = admin.offset(at, "from-kafka", 0, admin.OffsetSpec.earliest())
    assert low <= start  # Kafka keeps a log's start beside its folder, not in it
    assert admin.offset(at, "from-kafka") == len(sent)
    answer = worker("java-4.3").call("consume", bootstrap=at, topic="from-kafka", timeout_ms=30000,
                                     steps=[{"from": {"offset": start}, "count": len(sent) - start}])
    assert [r["o"] for r in answer["records"]] == list(range(start, len(sent)))
    for s, g in zip(sent[start:], answer["records"]):
        assert (g["k"], g["v"], g["t"], g["h"]) == (s["k"], s["v"], s["t"], s.get("h", []))
    assert admin.offset(at, "from-kafka", 0, admin.OffsetSpec.for_timestamp(T0 + 10_005)) == len(sent) - 25
    worker("confluent").call("produce", bootstrap=at, topic="from-kafka", records=[record(b"goes on", partition=0)])
    assert admin.offset(at, "from-kafka") == len(sent) + 1
    broker.restart("kill")
    held = admin.read_all(at, "from-kafka")[0]
    assert [o for o, _, _ in held] == list(range(low, len(sent) + 1)) and held[-1][2] == b"goes on"


@pytest.mark.ours
@pytest.mark.xdist_group("disk")
def test_our_dump_shows_a_segment_of_kafkas(written_by_kafka):
    folder, sent, start = written_by_kafka
    last = sorted(folder.glob("*.log"))[-1]
    said = tidemark("log", "dump", last)
    assert str(len(sent) - 1) in said
