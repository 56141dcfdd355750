"""Acknowledged means kept: kill -9 in the middle of things, and what is there afterwards."""

import threading
import time

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from labkit import admin
from labkit.groups import Feeder, Group
from labkit.paths import PEER, unique, wait_until
from labkit.wire import Raw, batch, produce
from labkit.workers import record


def held_once_in_order(bootstrap, topic, partitions, acked):
    """Every acknowledged record is there, once, at its offset, in the order of sending."""
    rows = admin.read_all(bootstrap, topic, partitions)
    held = {(p, o): v.decode() for p, part in rows.items() for o, _, v in part}
    lost = {at: text for at, text in acked.items() if held.get(at) != text}
    assert not lost, f"{len(lost)} acknowledged records are lost, the first {sorted(lost.items())[:3]}"
    for p, part in rows.items():
        numbers = [int(v) for _, _, v in part]
        assert numbers == sorted(set(numbers)), f"partition {p} has repeats or disorder"
        assert [o for o, _, _ in part] == list(range(len(part)))


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_killed_in_the_middle_of_acks_all(own_broker, codec):
    """Three kills under load by an idempotent producer."""
    broker = own_broker()
    topic = admin.create(broker.bootstrap, unique(), 3)
    feeder = Feeder(broker.bootstrap, topic, 3, per_second=3000, settings={"compression.type": codec})
    for _ in range(3 if PEER == "tidemark" else 1):
        before = len(feeder.acked)
        wait_until(lambda: len(feeder.acked) > before + 1500, 40, "the producer going on")
        broker.restart("kill")
    before = len(feeder.acked)
    wait_until(lambda: len(feeder.acked) > before + 500, 40, "the producer going on")
    acked = feeder.stop()
    held_once_in_order(broker.bootstrap, topic, 3, acked)
    assert len(acked) == feeder.sent


def test_killed_under_the_java_producer(own_broker, worker):
    broker = own_broker()
    topic = admin.create(broker.bootstrap, unique(), 1)
    pending = worker("java-4.3").begin("produce", bootstrap=broker.bootstrap, topic=topic, idempotent=True,
                                       props={"batch.size": 500, "linger.ms": 0, "delivery.timeout.ms": 60000},
                                       records=[record(f"{i}".encode(), partition=0) for i in range(20000)])
    wait_until(lambda: admin.offset(broker.bootstrap, topic) > 2000, 30, "the producer being in the middle")
    broker.restart("kill")
    offsets = pending.result(60)["offsets"]
    held_once_in_order(broker.bootstrap, topic, 1, {(p, o): str(i) for i, (p, o) in enumerate(offsets)})


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_everything_survives_a_restart(own_broker, worker, how):
    """Topics, settings, records, offsets, log starts and deletions."""
    broker = own_broker()
    at = broker.bootstrap
    topic = admin.create(at, unique("kept"), 2, {"retention.ms": "7200000"})
    gone = admin.create(at, unique("gone"), 1)
    cut = admin.create(at, unique("cut"), 1)
    for name in (topic, gone, cut):
        worker("java-2.1").call("produce", bootstrap=at, topic=name, codec="gzip", records=[
            record(f"{i}".encode(), b"k", [("h", b"v")], partition=0) for i in range(100)])
    client = admin.client(at)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[
        ConfigEntry("max.message.bytes", "7777", incremental_operation=AlterConfigOpType.SET)])
    client.incremental_alter_configs([resource])[resource].result(15)
    client.delete_topics([gone])[gone].result(15)
    client.delete_records([TopicPartition(cut, 0, 40)])[TopicPartition(cut, 0)].result(15)
    group = unique("group")
    consumer = Consumer({"bootstrap.servers": at, "group.id": group, "log_level": 2})
    consumer.commit(offsets=[TopicPartition(topic, 0, 33, metadata="kept too"), TopicPartition(topic, 1, 0)], asynchronous=False)
    consumer.close()

    broker.restart(how)
    topics = admin.client(at).list_topics(timeout=15).topics
    assert topic in topics and cut in topics and gone not in topics
    resource = ConfigResource(ResourceType.TOPIC, topic)
    settings = admin.client(at).describe_configs([resource])[resource].result(15)
    assert settings["retention.ms"].value == "7200000" and settings["max.message.bytes"].value == "7777"
    rows = admin.read_all(at, topic, partitions=2, expect=100)
    assert [int(v) for _, _, v in rows[0]] == list(range(100))
    if PEER == "tidemark" or how == "stop":  # Kafka notes a log's start once a minute
        assert [o for o, _, _ in admin.read_all(at, cut, expect=60)[0]] == list(range(40, 100))
    consumer = Consumer({"bootstrap.servers": at, "group.id": group, "log_level": 2})

    def committed():
        found = consumer.committed([TopicPartition(topic, 0), TopicPartition(topic, 1)], timeout=15)
        return [(t.offset, t.metadata or "") for t in found]

    wait_until(lambda: committed() == [(33, "kept too"), (0, "")], what="the committed offsets coming back")
    consumer.close()
    worker("kafkajs").call("produce", bootstrap=at, topic=topic, records=[record(b"100", partition=0)])
    assert admin.offset(at, topic) == 101


def test_groups_live_through_a_kill(own_broker, worker):
    """Members of three languages find their way back, and miss nothing."""
    broker = own_broker()
    topic = admin.create(broker.bootstrap, unique(), 3)
    group = Group(broker.bootstrap, [topic])
    for name in ("confluent", "java-4.3", "aiokafka"):
        group.join(worker(name), "range", session_ms=6000)
    group.settled([(topic, p) for p in range(3)], [1, 1, 1])
    feeder = Feeder(broker.bootstrap, topic, 3)
    wait_until(lambda: len(group.rows()) > 200)
    broker.restart("kill")
    before = len(feeder.acked)
    wait_until(lambda: len(feeder.acked) > before + 200, 40, "the producer going on")
    acked = feeder.stop()
    group.caught_up(acked, 60)
    group.end()
    group.check(acked)


def test_an_idempotent_producer_is_known_after_a_kill(own_broker):
    """By hand: a repeat from before the kill gets its first offset after it."""
    import struct
    from labkit import wire

    broker = own_broker()
    topic = admin.create(broker.bootstrap, unique(), 1)

    def initialised():
        with Raw(broker.bootstrap) as raw:
            answer = raw.ask(wire.INIT_PRODUCER_ID, 0, wire.string(None) + wire.i32(1000))
            _, _, code, *ids = struct.unpack(">iihqh", answer[:20])
            return ids if code == 0 else None

    producer, epoch = wait_until(initialised)
    with Raw(broker.bootstrap) as raw:
        wait_until(lambda: produce(raw, topic, 0, batch([b"a", b"b"], producer=(producer, epoch, 0))) == (0, 0))
        assert produce(raw, topic, 0, batch([b"c"], producer=(producer, epoch, 2))) == (0, 2)
    broker.restart("kill")

    def repeated():
        with Raw(broker.bootstrap) as raw:
            return produce(raw, topic, 0, batch([b"c"], producer=(producer, epoch, 2)))

    wait_until(lambda: repeated() == (0, 2), what="the repeat being known")
    with Raw(broker.bootstrap) as raw:
        assert produce(raw, topic, 0, batch([b"z"], producer=(producer, epoch, 7)))[0] == 45
        assert produce(raw, topic, 0, batch([b"d"], producer=(producer, epoch, 3))) == (0, 3)
    # Another producer gets another id.
    assert wait_until(initialised)[0] != producer


def test_a_clean_stop_is_quick_and_clean(own_broker, worker):
    """SIGTERM under load: exit code 0, no acknowledged record lost, and nobody hangs."""
    broker = own_broker()
    topic = admin.create(broker.bootstrap, unique(), 2)
    feeder = Feeder(broker.bootstrap, topic, 2, per_second=2000)
    wait_until(lambda: len(feeder.acked) > 1000, 30)
    from_s = time.monotonic()
    code = broker.stop()
    took = time.monotonic() - from_s
    if PEER == "tidemark":
        assert code == 0 and took < 10, (code, took)
    broker.start()
    acked = feeder.stop()
    held_once_in_order(broker.bootstrap, topic, 2, acked)


@pytest.mark.ours
def test_killed_again_and_again(own_broker):
    """Six kills at once after another, some before the broker is ready."""
    import random

    broker = own_broker()
    topic = admin.create(broker.bootstrap, unique(), 2, {"segment.bytes": "1048576"})
    feeder = Feeder(broker.bootstrap, topic, 2, per_second=4000)
    chance = random.Random(5)
    for _ in range(6):
        wait_until(lambda: feeder.acked, 20)
        threading.Event().wait(chance.uniform(0.05, 0.6))  # the moment of the kill is the point
        broker.restart("kill")
    before = len(feeder.acked)
    wait_until(lambda: len(feeder.acked) > before, 40)
    acked = feeder.stop()
    held_once_in_order(broker.bootstrap, topic, 2, acked)
    assert len(acked) == feeder.sent
