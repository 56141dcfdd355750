"""confluent-kafka (librdkafka of today)."""

import time

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from .workers import b64, unb64

# A commit that came too late: the partitions are another member's by now.
LOST = (KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError._STATE,
        KafkaError._NO_OFFSET, KafkaError._ASSIGNMENT_LOST)


def _fail(code, what):
    raise KafkaException(KafkaError(code, what))


class Confluent:
    def produce(self, request):
        producer = Producer({
            "bootstrap.servers": request["bootstrap"],
            "compression.type": request.get("codec", "none"),
            "acks": request.get("acks", "all"),
            "enable.idempotence": request.get("idempotent", False),
            "linger.ms": 20,
            "message.timeout.ms": 20000,
            "message.max.bytes": 4000000,
            **request.get("props", {}),
        })
        offsets = [None] * len(request["records"])
        failed = []

        def delivered(at):
            def done(error, message):
                if error:
                    failed.append(error)
                else:
                    offsets[at] = [message.partition(), message.offset()]
            return done

        for at, r in enumerate(request["records"]):
            fields = {}
            if "p" in r:
                fields["partition"] = r["p"]
            if "t" in r:
                fields["timestamp"] = r["t"]
            if "h" in r:
                fields["headers"] = [(name, unb64(value)) for name, value in r["h"]]
            while True:
                try:
                    producer.produce(request["topic"], value=unb64(r["v"]), key=unb64(r["k"]),
                                     on_delivery=delivered(at), **fields)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush(25)
        if failed:
            raise KafkaException(failed[0])
        return {"offsets": offsets}

    def consume(self, request, note):
        consumer = Consumer({
            "bootstrap.servers": request["bootstrap"],
            "group.id": "unused-" + str(time.monotonic_ns()),
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "fetch.message.max.bytes": 4 << 20,
            **request.get("props", {}),
        })
        topic, partition = request["topic"], request.get("partition", 0)
        deadline = time.monotonic() + request.get("timeout_ms", 20000) / 1000
        out = []
        try:
            for step in request["steps"]:
                start = step["from"]
                if start == "beginning":
                    at = OFFSET_BEGINNING
                elif start == "end":
                    at = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1]
                elif "offset" in start:
                    at = start["offset"]
                else:
                    at = consumer.offsets_for_times([TopicPartition(topic, partition, start["time"])], timeout=10)[0].offset
                    if at == OFFSET_END:
                        return {"records": out, "at_end": True}
                consumer.assign([TopicPartition(topic, partition, at)])
                if start == "end":
                    note("positioned")
                got = 0
                while got < step["count"]:
                    if time.monotonic() > deadline:
                        _fail(KafkaError._TIMED_OUT, f"{got} of {step['count']} records came")
                    message = consumer.poll(0.2)
                    if message is None:
                        continue
                    if message.error():
                        raise KafkaException(message.error())
                    got += 1
                    out.append({"p": message.partition(), "o": message.offset(), "t": message.timestamp()[1],
                                "k": b64(message.key()), "v": b64(message.value()),
                                "h": [[n, b64(v)] for n, v in message.headers() or []]})
        finally:
            consumer.close()
        return {"records": out}

    def member(self, request, stop, event):
        config = {
            "bootstrap.servers": request["bootstrap"],
            "group.id": request["group"],
            "enable.auto.commit": False,
            "auto.offset.reset": request.get("reset", "earliest"),
            "partition.assignment.strategy": request["assignor"],
            "session.timeout.ms": request["session_timeout_ms"],
            "heartbeat.interval.ms": request["session_timeout_ms"] // 5,
            "max.poll.interval.ms": 30000,
            **request.get("props", {}),
        }
        if request.get("instance_id"):
            config["group.instance.id"] = request["instance_id"]
        consumer = Consumer(config)
        cooperative = request["assignor"] == "cooperative-sticky"

        def show(kept, revoked=False):
            event("assigned", partitions=sorted([t.topic, t.partition] for t in kept), revoked=revoked)

        batch = []

        def hand_over():
            """What was polled before a rebalance is told, and committed, before it."""
            if not batch:
                return
            event("records", records=[[m.topic(), m.partition(), m.offset(), (m.value() or b"").decode()] for m in batch])
            tops = {(m.topic(), m.partition()): m.offset() + 1 for m in batch}
            batch.clear()
            if request.get("commit", True):
                try:
                    consumer.commit(offsets=[TopicPartition(t, p, o) for (t, p), o in tops.items()], asynchronous=False)
                except KafkaException as error:
                    if error.args[0].code() not in LOST:
                        raise

        def on_assign(c, partitions):
            hand_over()
            if cooperative:
                before = c.assignment()
                c.incremental_assign(partitions)
                show({(t.topic, t.partition): t for t in [*before, *partitions]}.values())
            else:
                c.assign(partitions)
                show(partitions)

        def on_revoke(c, partitions):
            hand_over()
            if cooperative:
                gone = {(t.topic, t.partition) for t in partitions}
                kept = [t for t in c.assignment() if (t.topic, t.partition) not in gone]
                c.incremental_unassign(partitions)
            else:
                kept = []
                c.unassign()
            show(kept, revoked=not cooperative)

        consumer.subscribe(request["topics"], on_assign=on_assign, on_revoke=on_revoke,
                           on_lost=lambda c, p: on_revoke(c, p))
        try:
            while not stop.is_set():
                until = time.monotonic() + 0.1
                while len(batch) < 200 and (left := until - time.monotonic()) > 0:
                    message = consumer.poll(left)
                    if message is None:
                        continue
                    if not message.error():
                        batch.append(message)
                    elif not message.error().retriable() and message.error().code() != KafkaError._MAX_POLL_EXCEEDED:
                        raise KafkaException(message.error())
                hand_over()
        finally:
            consumer.close()

    def txn(self, request):
        from_ns = time.monotonic_ns()
        producer = Producer({"bootstrap.servers": request["bootstrap"], "transactional.id": request["transactional_id"]})
        try:
            producer.init_transactions(request.get("timeout_ms", 15000) / 1000)
        except KafkaException as error:
            error.fields = {"elapsed_ms": (time.monotonic_ns() - from_ns) // 1_000_000, "fatal": error.args[0].fatal()}
            raise
        return {}
