"""aiokafka: the asyncio client. Each operation has its own event loop."""

import asyncio
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from .workers import b64, unb64

ASSIGNORS = {"range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor, "sticky": StickyPartitionAssignor}


class AioKafka:
    def produce(self, request):
        return asyncio.run(self._produce(request))

    async def _produce(self, request):
        codec = request.get("codec", "none")
        producer = AIOKafkaProducer(
            bootstrap_servers=request["bootstrap"], compression_type=None if codec == "none" else codec, acks="all",
            enable_idempotence=request.get("idempotent", False), linger_ms=20, max_request_size=4 << 20)
        await producer.start()
        try:
            futures = [await producer.send(request["topic"], value=unb64(r["v"]), key=unb64(r["k"]),
                                           headers=[(n, unb64(v)) for n, v in r.get("h", [])] or None,
                                           partition=r.get("p"), timestamp_ms=r.get("t"))
                       for r in request["records"]]
            done = [await asyncio.wait_for(f, 25) for f in futures]
            return {"offsets": [[d.partition, d.offset] for d in done]}
        finally:
            await producer.stop()

    def consume(self, request, note):
        return asyncio.run(self._consume(request, note))

    async def _consume(self, request, note):
        consumer = AIOKafkaConsumer(bootstrap_servers=request["bootstrap"], enable_auto_commit=False,
                                    auto_offset_reset="none", max_partition_fetch_bytes=4 << 20)
        await consumer.start()
        at = TopicPartition(request["topic"], request.get("partition", 0))
        deadline = time.monotonic() + request.get("timeout_ms", 20000) / 1000
        out = []
        try:
            consumer.assign([at])
            for step in request["steps"]:
                start = step["from"]
                if start == "beginning":
                    await consumer.seek_to_beginning(at)
                elif start == "end":
                    await consumer.seek_to_end(at)
                    await consumer.position(at)
                    note("positioned")
                elif "offset" in start:
                    consumer.seek(at, start["offset"])
                else:
                    found = (await consumer.offsets_for_times({at: start["time"]}))[at]
                    if found is None:
                        return {"records": out, "at_end": True}
                    consumer.seek(at, found.offset)
                got = 0
                while got < step["count"]:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{got} of {step['count']} records came")
                    polled = await consumer.getmany(at, timeout_ms=200, max_records=step["count"] - got)
                    for r in polled.get(at, []):
                        got += 1
                        out.append({"p": r.partition, "o": r.offset, "t": r.timestamp, "k": b64(r.key),
                                    "v": b64(r.value), "h": [[n, b64(v)] for n, v in r.headers]})
        finally:
            await consumer.stop()
        return {"records": out}

    def member(self, request, stop, event):
        asyncio.run(self._member(request, stop, event))

    async def _member(self, request, stop, event):
        consumer = AIOKafkaConsumer(
            bootstrap_servers=request["bootstrap"], group_id=request["group"], enable_auto_commit=False,
            auto_offset_reset=request.get("reset", "earliest"),
            partition_assignment_strategy=[ASSIGNORS[request["assignor"]]],
            group_instance_id=request.get("instance_id"),
            session_timeout_ms=request["session_timeout_ms"],
            heartbeat_interval_ms=request["session_timeout_ms"] // 5)

        class Listener(ConsumerRebalanceListener):
            async def on_partitions_revoked(self, revoked):
                event("assigned", partitions=[], revoked=True)

            async def on_partitions_assigned(self, assigned):
                event("assigned", partitions=sorted([t.topic, t.partition] for t in assigned))

        consumer.subscribe(request["topics"], listener=Listener())
        await consumer.start()
        try:
            while not stop.is_set():
                polled = await consumer.getmany(timeout_ms=100, max_records=200)
                flat = [r for rs in polled.values() for r in rs]
                if flat:
                    event("records", records=[[r.topic, r.partition, r.offset, (r.value or b"").decode()] for r in flat])
                    if request.get("commit", True):
                        try:
                            await consumer.commit({t: rs[-1].offset + 1 for t, rs in polled.items()})
                        except (errors.CommitFailedError, errors.RebalanceInProgressError, errors.IllegalStateError,
                                errors.IllegalGenerationError, errors.UnknownMemberIdError):
                            pass
        finally:
            await consumer.stop()

    def txn(self, request):
        return asyncio.run(self._txn(request))

    async def _txn(self, request):
        from_ns = time.monotonic_ns()
        producer = AIOKafkaProducer(bootstrap_servers=request["bootstrap"], transactional_id=request["transactional_id"])
        try:
            await asyncio.wait_for(producer.start(), 15)
        except Exception as error:
            error.fields = {"elapsed_ms": (time.monotonic_ns() - from_ns) // 1_000_000}
            raise
        finally:
            await producer.stop()
        return {}
