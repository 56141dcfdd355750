"""librdkafka of years ago, through its C interface (the library comes out of
an old wheel whose Python binding no longer loads)."""

import ctypes
import time
from ctypes import (CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p,
                    create_string_buffer, string_at)

from .paths import CACHE
from .workers import b64, unb64

PRODUCER, CONSUMER = 0, 1
OFFSET_BEGINNING, OFFSET_END = -2, -1
PARTITION_EOF, ASSIGN_PARTITIONS, REVOKE_PARTITIONS, NO_OFFSET = -191, -175, -174, -168
V_END, V_TOPIC, V_PARTITION, V_VALUE, V_KEY, V_OPAQUE, V_MSGFLAGS, V_TIMESTAMP, V_HEADER = 0, 1, 3, 4, 5, 6, 7, 8, 9
FLAG_COPY = 2


class Message(Structure):
    _fields_ = [("err", c_int), ("rkt", c_void_p), ("partition", c_int32), ("payload", c_void_p), ("len", c_size_t),
                ("key", c_void_p), ("key_len", c_size_t), ("offset", c_int64), ("private", c_void_p)]


class TopicPartition(Structure):
    _fields_ = [("topic", c_char_p), ("partition", c_int32), ("offset", c_int64), ("metadata", c_void_p),
                ("metadata_size", c_size_t), ("opaque", c_void_p), ("err", c_int), ("private", c_void_p)]


class PartitionList(Structure):
    _fields_ = [("cnt", c_int), ("size", c_int), ("elems", POINTER(TopicPartition))]


DELIVERED = CFUNCTYPE(None, c_void_p, POINTER(Message), c_void_p)
REBALANCED = CFUNCTYPE(None, c_void_p, c_int, POINTER(PartitionList), c_void_p)


class RdKafkaError(Exception):
    pass


def load(version):
    """The library of that release, with the libraries that came beside it."""
    folder = CACHE / "librdkafka" / version
    waiting = sorted(p for p in [*folder.glob("confluent_kafka/.libs/*.so*"), *folder.glob("confluent_kafka.libs/*.so*")]
                     if "interceptor" not in p.name)
    loaded = {}
    for _ in waiting:  # they need one another, in an order that their names do not tell
        for path in waiting:
            if path.name not in loaded:
                try:
                    loaded[path.name] = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
                except OSError:
                    continue
    lib = next(v for k, v in loaded.items() if k.startswith("librdkafka"))
    for name, result in {
        "rd_kafka_version_str": c_char_p, "rd_kafka_conf_new": c_void_p, "rd_kafka_new": c_void_p,
        "rd_kafka_err2str": c_char_p, "rd_kafka_topic_name": c_char_p, "rd_kafka_message_timestamp": c_int64,
        "rd_kafka_topic_partition_list_new": POINTER(PartitionList),
        "rd_kafka_topic_partition_list_add": POINTER(TopicPartition), "rd_kafka_consumer_poll": POINTER(Message),
    }.items():
        getattr(lib, name).restype = result
    return lib


class OldLibrdkafka:
    def __init__(self, version):
        self.version = version
        self.lib = load(version)
        found = self.lib.rd_kafka_version_str().decode()
        assert found.startswith(version), found

    def _check(self, code):
        if code:
            raise RdKafkaError(self.lib.rd_kafka_err2str(c_int(code)).decode())

    def _open(self, kind, settings, delivered=None, rebalanced=None):
        conf = c_void_p(self.lib.rd_kafka_conf_new())
        why = create_string_buffer(512)
        for name, value in settings.items():
            if self.lib.rd_kafka_conf_set(conf, name.encode(), str(value).encode(), why, c_size_t(512)):
                raise RdKafkaError(why.value.decode())
        if delivered:
            self.lib.rd_kafka_conf_set_dr_msg_cb(conf, delivered)
        if rebalanced:
            self.lib.rd_kafka_conf_set_rebalance_cb(conf, rebalanced)
        handle = self.lib.rd_kafka_new(c_int(kind), conf, why, c_size_t(512))
        if not handle:
            raise RdKafkaError(why.value.decode())
        return c_void_p(handle)

    def produce(self, request):
        offsets = [None] * len(request["records"])
        failed = []

        def on_delivery(_rk, message, _opaque):
            m = message.contents
            if m.err:
                failed.append(m.err)
            else:
                offsets[(m.private or 0) - 1] = [m.partition, m.offset]

        keep = DELIVERED(on_delivery)
        settings = {"bootstrap.servers": request["bootstrap"], "compression.codec": request.get("codec", "none"),
                    "queue.buffering.max.ms": 20, "message.max.bytes": 4000000, "request.required.acks": -1,
                    "message.timeout.ms": 20000, "produce.offset.report": "true", **request.get("props", {})}
        if request.get("idempotent"):
            settings["enable.idempotence"] = "true"
        rk = self._open(PRODUCER, settings, delivered=keep)
        try:
            for at, r in enumerate(request["records"]):
                key, value = unb64(r["k"]), unb64(r["v"])
                args = [c_int(V_TOPIC), c_char_p(request["topic"].encode()), c_int(V_MSGFLAGS), c_int(FLAG_COPY),
                        c_int(V_VALUE), c_char_p(value), c_size_t(len(value or b"")),
                        c_int(V_KEY), c_char_p(key), c_size_t(len(key or b"")), c_int(V_OPAQUE), c_void_p(at + 1)]
                if "p" in r:
                    args += [c_int(V_PARTITION), c_int32(r["p"])]
                if "t" in r:
                    args += [c_int(V_TIMESTAMP), c_int64(r["t"])]
                for name, header in r.get("h", []):
                    content = unb64(header)
                    args += [c_int(V_HEADER), c_char_p(name.encode()), c_char_p(content),
                             ctypes.c_ssize_t(len(content or b""))]
                self._check(self.lib.rd_kafka_producev(rk, *args, c_int(V_END)))
            deadline = time.monotonic() + 25
            while self.lib.rd_kafka_outq_len(rk) and time.monotonic() < deadline:
                self.lib.rd_kafka_poll(rk, c_int(50))
            if failed:
                self._check(failed[0])
            if None in offsets:
                raise RdKafkaError("no delivery report within 25 s")
        finally:
            self.lib.rd_kafka_destroy(rk)
        return {"offsets": offsets}

    def _list(self, entries):
        made = self.lib.rd_kafka_topic_partition_list_new(c_int(len(entries) or 1))
        for topic, partition, offset in entries:
            added = self.lib.rd_kafka_topic_partition_list_add(made, topic.encode(), c_int32(partition))
            added.contents.offset = offset
        return made

    def _take(self, pointer):
        """A polled message as a dictionary; the library's own is given back."""
        m = pointer.contents
        try:
            if m.err:
                return {"err": m.err}
            kind = c_int()
            headers = c_void_p()
            pairs = []
            if self.lib.rd_kafka_message_headers(pointer, byref(headers)) == 0:
                name, value, size = c_char_p(), c_void_p(), c_size_t()
                while self.lib.rd_kafka_header_get_all(headers, c_size_t(len(pairs)), byref(name), byref(value),
                                                       byref(size)) == 0:
                    pairs.append([name.value.decode(), b64(string_at(value.value, size.value)) if value.value else None])
            return {
                "err": 0, "topic": self.lib.rd_kafka_topic_name(c_void_p(m.rkt)).decode(), "p": m.partition, "o": m.offset,
                "t": self.lib.rd_kafka_message_timestamp(pointer, byref(kind)),
                "k": b64(string_at(m.key, m.key_len)) if m.key else None,
                "v": b64(string_at(m.payload, m.len)) if m.payload else None, "h": pairs,
            }
        finally:
            self.lib.rd_kafka_message_destroy(pointer)

    def consume(self, request, note):
        rk = self._open(CONSUMER, {
            "bootstrap.servers": request["bootstrap"], "group.id": "unused", "enable.auto.commit": "false",
            "fetch.message.max.bytes": 4 << 20, "fetch.wait.max.ms": 100, **request.get("props", {})})
        self.lib.rd_kafka_poll_set_consumer(rk)
        topic, partition = request["topic"], request.get("partition", 0)
        deadline = time.monotonic() + request.get("timeout_ms", 20000) / 1000
        out = []
        try:
            for step in request["steps"]:
                start = step["from"]
                if start == "beginning":
                    at = 0 if self.version.startswith("0.") else OFFSET_BEGINNING
                elif start == "end":
                    low, high = c_int64(), c_int64()
                    self._check(self.lib.rd_kafka_query_watermark_offsets(
                        rk, topic.encode(), c_int32(partition), byref(low), byref(high), c_int(10000)))
                    at = high.value
                elif "offset" in start:
                    at = start["offset"]
                else:
                    wanted = self._list([(topic, partition, start["time"])])
                    self._check(self.lib.rd_kafka_offsets_for_times(rk, wanted, c_int(10000)))
                    at = wanted.contents.elems[0].offset
                    self.lib.rd_kafka_topic_partition_list_destroy(wanted)
                    if at == OFFSET_END:
                        return {"records": out, "at_end": True}
                assigned = self._list([(topic, partition, at)])
                self._check(self.lib.rd_kafka_assign(rk, assigned))
                self.lib.rd_kafka_topic_partition_list_destroy(assigned)
                if start == "end":
                    note("positioned")
                got = 0
                while got < step["count"]:
                    if time.monotonic() > deadline:
                        raise RdKafkaError(f"{got} of {step['count']} records came")
                    pointer = self.lib.rd_kafka_consumer_poll(rk, c_int(200))
                    if not pointer:
                        continue
                    taken = self._take(pointer)
                    if taken["err"] == PARTITION_EOF:
                        continue
                    self._check(taken.pop("err"))
                    taken.pop("topic")
                    got += 1
                    out.append(taken)
        finally:
            self.lib.rd_kafka_consumer_close(rk)
            self.lib.rd_kafka_destroy(rk)
        return {"records": out}

    def member(self, request, stop, event):
        batch = []

        def hand_over():
            """What was polled before a rebalance is told, and committed, before it."""
            if not batch:
                return
            event("records", records=[[r["topic"], r["p"], r["o"], (unb64(r["v"]) or b"").decode()] for r in batch])
            if request.get("commit", True):
                last = {(r["topic"], r["p"]): r["o"] + 1 for r in batch}
                offsets = self._list([(t, p, o) for (t, p), o in last.items()])
                self.lib.rd_kafka_commit(rk, offsets, c_int(0))
                self.lib.rd_kafka_topic_partition_list_destroy(offsets)
            batch.clear()

        def on_rebalance(_rk, code, partitions, _opaque):
            hand_over()
            if code == ASSIGN_PARTITIONS:
                these = partitions.contents
                self.lib.rd_kafka_assign(rk, partitions)
                event("assigned", partitions=sorted(
                    [these.elems[i].topic.decode(), these.elems[i].partition] for i in range(these.cnt)))
            else:
                event("assigned", partitions=[], revoked=True)
                self.lib.rd_kafka_assign(rk, None)

        keep = REBALANCED(on_rebalance)
        static = {"group.instance.id": request["instance_id"]} if request.get("instance_id") else {}
        rk = self._open(CONSUMER, {
            "bootstrap.servers": request["bootstrap"], "group.id": request["group"], "enable.auto.commit": "false",
            "auto.offset.reset": request.get("reset", "earliest"),
            "partition.assignment.strategy": request["assignor"], "session.timeout.ms": request["session_timeout_ms"],
            "heartbeat.interval.ms": request["session_timeout_ms"] // 5, "fetch.wait.max.ms": 100,
            **static, **request.get("props", {})}, rebalanced=keep)
        self.lib.rd_kafka_poll_set_consumer(rk)
        topics = self._list([(t, -1, 0) for t in request["topics"]])
        self._check(self.lib.rd_kafka_subscribe(rk, topics))
        self.lib.rd_kafka_topic_partition_list_destroy(topics)
        try:
            while not stop.is_set():
                until = time.monotonic() + 0.1
                while len(batch) < 200 and (left := until - time.monotonic()) > 0:
                    pointer = self.lib.rd_kafka_consumer_poll(rk, c_int(max(1, int(left * 1000))))
                    if pointer:
                        taken = self._take(pointer)
                        if not taken["err"]:
                            batch.append(taken)
                hand_over()
        finally:
            self.lib.rd_kafka_consumer_close(rk)
            self.lib.rd_kafka_destroy(rk)
