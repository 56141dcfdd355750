"""kafka-python: a client in pure Python."""

import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka import errors
from kafka.structs import OffsetAndMetadata

from .workers import b64, unb64


def _assignor(name):
    if name == "range":
        from kafka.coordinator.assignors.range import RangePartitionAssignor as found
    elif name == "roundrobin":
        from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor as found
    else:
        from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor as found
    return found


class KafkaPython:
    def produce(self, request):
        codec = request.get("codec", "none")
        producer = KafkaProducer(
            bootstrap_servers=request["bootstrap"],
            compression_type=None if codec == "none" else codec,
            acks="all",
            enable_idempotence=request.get("idempotent", False),
            linger_ms=20,
            max_request_size=request.get("max_request_size", 4 << 20),
            retries=5,
        )
        try:
            futures = [producer.send(request["topic"], value=unb64(r["v"]), key=unb64(r["k"]),
                                     headers=[(n, unb64(v)) for n, v in r.get("h", [])] or None,
                                     partition=r.get("p"), timestamp_ms=r.get("t"))
                       for r in request["records"]]
            producer.flush(timeout=25)
            done = [f.get(timeout=25) for f in futures]
            return {"offsets": [[d.partition, d.offset] for d in done]}
        finally:
            producer.close(timeout=5)

    def consume(self, request, note):
        consumer = KafkaConsumer(bootstrap_servers=request["bootstrap"], enable_auto_commit=False,
                                 auto_offset_reset="none", max_partition_fetch_bytes=4 << 20)
        at = TopicPartition(request["topic"], request.get("partition", 0))
        deadline = time.monotonic() + request.get("timeout_ms", 20000) / 1000
        out = []
        try:
            consumer.assign([at])
            for step in request["steps"]:
                start = step["from"]
                if start == "beginning":
                    consumer.seek_to_beginning(at)
                elif start == "end":
                    consumer.seek_to_end(at)
                    consumer.position(at)
                    note("positioned")
                elif "offset" in start:
                    consumer.seek(at, start["offset"])
                else:
                    found = consumer.offsets_for_times({at: start["time"]})[at]
                    if found is None:
                        return {"records": out, "at_end": True}
                    consumer.seek(at, found.offset)
                got = 0
                while got < step["count"]:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{got} of {step['count']} records came")
                    for r in consumer.poll(timeout_ms=200, max_records=step["count"] - got).get(at, []):
                        got += 1
                        out.append({"p": r.partition, "o": r.offset, "t": r.timestamp, "k": b64(r.key),
                                    "v": b64(r.value), "h": [[n, b64(v)] for n, v in r.headers]})
        finally:
            consumer.close()
        return {"records": out}

    def member(self, request, stop, event):
        extra = {"group_instance_id": request["instance_id"]} if request.get("instance_id") else {}
        consumer = KafkaConsumer(
            bootstrap_servers=request["bootstrap"], group_id=request["group"], enable_auto_commit=False,
            auto_offset_reset=request.get("reset", "earliest"),
            partition_assignment_strategy=[_assignor(request["assignor"])],
            session_timeout_ms=request["session_timeout_ms"],
            heartbeat_interval_ms=request["session_timeout_ms"] // 5, **extra)

        class Listener(ConsumerRebalanceListener):
            def on_partitions_revoked(self, revoked):
                event("assigned", partitions=[], revoked=True)

            def on_partitions_assigned(self, assigned):
                event("assigned", partitions=sorted([t.topic, t.partition] for t in consumer.assignment()))

        consumer.subscribe(request["topics"], listener=Listener())
        try:
            while not stop.is_set():
                polled = consumer.poll(timeout_ms=100, max_records=200)
                flat = [r for rs in polled.values() for r in rs]
                if flat:
                    event("records", records=[[r.topic, r.partition, r.offset, (r.value or b"").decode()] for r in flat])
                    if request.get("commit", True):
                        try:
                            consumer.commit({t: OffsetAndMetadata(rs[-1].offset + 1, "", -1) for t, rs in polled.items()})
                        except (errors.CommitFailedError, errors.RebalanceInProgressError, errors.IllegalGenerationError,
                                errors.UnknownMemberIdError):
                            pass
        finally:
            consumer.close()

    def txn(self, request):
        from_ns = time.monotonic_ns()
        producer = KafkaProducer(bootstrap_servers=request["bootstrap"], transactional_id=request["transactional_id"],
                                 max_block_ms=15000)
        try:
            producer.init_transactions()
        except Exception as error:
            error.fields = {"elapsed_ms": (time.monotonic_ns() - from_ns) // 1_000_000}
            raise
        finally:
            producer.close(timeout=0)
        return {}
