"""Administration through confluent's AdminClient, waited for and unwrapped."""

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from .paths import wait_until

_clients = {}


def client(bootstrap):
    if bootstrap not in _clients:
        _clients[bootstrap] = AdminClient({"bootstrap.servers": bootstrap, "socket.timeout.ms": 10000,
                                           "log_level": 2, "reconnect.backoff.max.ms": 200})
    return _clients[bootstrap]


def create(bootstrap, name, partitions=1, config=None):
    made = client(bootstrap).create_topics(
        [NewTopic(name, num_partitions=partitions, replication_factor=1, config=config or {})], request_timeout=15)
    made[name].result(20)

    def led():
        found = client(bootstrap).list_topics(name, timeout=10).topics.get(name)
        return (found and not found.error and len(found.partitions) == partitions
                and all(p.leader >= 0 for p in found.partitions.values()))

    wait_until(led, 20, f"leaders of {name}")
    return name


def offset(bootstrap, topic, partition=0, spec=None):
    """The offset that ListOffsets gives for a spec (the latest unless told)."""
    at = TopicPartition(topic, partition)
    return client(bootstrap).list_offsets({at: spec or OffsetSpec.latest()}, request_timeout=15)[at].result(20).offset


def read_all(bootstrap, topic, partitions=1, expect=None, seconds=30):
    """Everything in a topic: {partition: [(offset, key, value)]}, up to the ends as they are now."""
    from confluent_kafka import KafkaError, KafkaException
    from .paths import Deadline

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False,
                         "enable.partition.eof": True, "auto.offset.reset": "earliest", "log_level": 2,
                         "fetch.message.max.bytes": 8 << 20})
    out = {p: [] for p in range(partitions)}
    open_ones = set(out)
    deadline = Deadline(seconds)
    try:
        consumer.assign([TopicPartition(topic, p, 0) for p in out])
        while open_ones:
            if deadline.passed():
                raise AssertionError(f"no end of partitions {open_ones} of {topic} within {seconds} s")
            for message in consumer.consume(1000, timeout=0.2):
                if message.error():
                    if message.error().code() == KafkaError._PARTITION_EOF:
                        open_ones.discard(message.partition())
                        continue
                    if message.error().retriable() or message.error().code() == KafkaError._TRANSPORT:
                        continue
                    raise KafkaException(message.error())
                out[message.partition()].append((message.offset(), message.key(), message.value()))
    finally:
        consumer.close()
    if expect is not None:
        count = sum(map(len, out.values()))
        assert count == expect, f"{topic} holds {count} records, not {expect}"
    return out
