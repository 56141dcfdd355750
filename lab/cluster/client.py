"""A client at work: a process that writes what happens to it, one event a line, until its standard input closes.

  client.py produce BOOTSTRAP TOPIC OUT --keys N --every-ms N --delivery-timeout-ms N
  client.py consume BOOTSTRAP TOPIC OUT --group G --member M

The events are those of labkit.history. Both find a new leader quickly and give up
on a silent broker after a second or three, as a client does that is meant to.
"""

import argparse
import json
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

BRISK = {"log_level": 0, "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 250, "retry.backoff.ms": 50,
         "retry.backoff.max.ms": 250, "topic.metadata.refresh.interval.ms": 250, "socket.connection.setup.timeout.ms": 1000,
         "api.version.request.timeout.ms": 1000}


class Told:
    """Events to a file, and the wish to end from standard input."""

    def __init__(self, path):
        self.out = open(path, "w", buffering=1 << 16)
        self.ending = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self):
        sys.stdin.read()
        self.ending.set()

    def __call__(self, kind, *rest, at=None):
        self.out.write(json.dumps([kind, time.monotonic() if at is None else at, *rest]) + "\n")

    def flush(self):
        self.out.flush()


def produce(options, told):
    """Keys in turn, each with its own numbers; what is not taken at once is not sent later in bulk."""
    topic = options.topic
    producer = Producer({**BRISK, "bootstrap.servers": options.bootstrap, "enable.idempotence": options.acks == "all",
                         "acks": options.acks, "linger.ms": 0, "delivery.timeout.ms": options.delivery_timeout_ms,
                         # With several in flight librdkafka 2.x takes a new epoch when a later one is refused, and
                         # writes again, past any broker's memory, what was in flight to other partitions.
                         "max.in.flight.requests.per.connection": 1, "socket.timeout.ms": 1000})
    numbers = [0] * options.keys
    turn, due = 0, time.monotonic()

    def send():
        nonlocal turn
        which = turn % options.keys
        key, n = f"k{which}", numbers[which]

        def delivered(error, message):
            if error:
                told("failed", topic, key, n, str(error))
            else:
                told("acked", topic, key, n, message.partition(), message.offset())

        asked = time.monotonic()
        try:
            producer.produce(topic, value=f"{n}:{'x' * (n * 37 % 200)}".encode(), key=key.encode(), on_delivery=delivered)
        except BufferError:
            return
        told("sent", topic, key, n, at=asked)
        numbers[which] += 1
        turn += 1

    while not told.ending.is_set():
        now = time.monotonic()
        if now >= due:
            due = max(due + options.every_ms / 1000, now - 0.1)
            send()
        producer.poll(max(0.001, min(0.02, due - time.monotonic())))
        told.flush()
    left = producer.flush(options.delivery_timeout_ms / 1000 + 5)
    if left:
        told("stuck", topic, left)


def consume(options, told):
    topic, member, positions = options.topic, options.member, {}

    def assigned(_, partitions):
        positions.clear()  # it goes on from what the group has committed
        for p in partitions:
            told("assigned", topic, member, p.partition)

    consumer = Consumer({**BRISK, "bootstrap.servers": options.bootstrap, "group.id": options.group, "client.id": member,
                         "enable.auto.commit": False, "auto.offset.reset": "earliest", "session.timeout.ms": 6000,
                         "heartbeat.interval.ms": 1000, "fetch.wait.max.ms": 100, "socket.timeout.ms": 3000,
                         "partition.assignment.strategy": "range"})
    consumer.subscribe([topic], on_assign=assigned)
    commit_at = time.monotonic() + 0.5
    while not told.ending.is_set():
        for message in consumer.consume(200, timeout=0.05):
            if message.error():
                continue  # a leader that moves; the client goes on by itself
            n = int(message.value().split(b":")[0])
            told("seen", topic, member, message.partition(), message.offset(), message.key().decode(), n)
            positions[message.partition()] = message.offset() + 1
        if time.monotonic() >= commit_at and positions:
            # What a rebalance took away is not ours to commit any more.
            mine = {p.partition for p in consumer.assignment()}
            wanted = [TopicPartition(topic, p, offset) for p, offset in positions.items() if p in mine]
            positions.clear()
            asked = time.monotonic()
            try:
                for done in consumer.commit(offsets=wanted, asynchronous=False) if wanted else []:
                    if not done.error:
                        # When it was asked: it was taken before any later owner was assigned.
                        told("committed", topic, member, done.partition, done.offset, at=asked)
            except KafkaException:
                pass  # a coordinator that moves or a rebalance: the next commit says it again
            commit_at = time.monotonic() + 0.5
        told.flush()
    consumer.close()


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("role", choices=["produce", "consume"])
    for name in ("bootstrap", "topic", "out"):
        options.add_argument(name)
    options.add_argument("--keys", type=int, default=1)
    options.add_argument("--every-ms", type=float, default=25)
    options.add_argument("--delivery-timeout-ms", type=int, default=120000)
    options.add_argument("--acks", choices=["all", "1"], default="all", help="all: idempotent as well")
    options.add_argument("--group")
    options.add_argument("--member")
    options = options.parse_args()
    told = Told(options.out)
    try:
        {"produce": produce, "consume": consume}[options.role](options, told)
    except KafkaException as error:
        told("fatal", options.topic, str(error))
    told.flush()


if __name__ == "__main__":
    main()
