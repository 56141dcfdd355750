"""Kafka's bytes by hand: as little as hostile requests need."""

import socket
import struct
import time

import crc32c


def i8(n): return struct.pack(">b", n)
def i16(n): return struct.pack(">h", n)
def i32(n): return struct.pack(">i", n)
def i64(n): return struct.pack(">q", n)


def string(text):
    return i16(-1) if text is None else i16(len(text.encode())) + text.encode()


def uvarint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def varint(n):
    return uvarint((n << 1) ^ (n >> 63) if n < 0 else n << 1)


def compact(text):
    return uvarint(0) if text is None else uvarint(len(text.encode()) + 1) + text.encode()


PRODUCE, FETCH, LIST_OFFSETS, METADATA, FIND_COORDINATOR, API_VERSIONS, CREATE_TOPICS, INIT_PRODUCER_ID = 0, 1, 2, 3, 10, 18, 19, 22


class Raw:
    """A socket that speaks frames."""

    def __init__(self, bootstrap, seconds=10):
        host, port = bootstrap.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=seconds)
        self.correlation = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """Bytes as they are. False where the other side has closed already."""
        try:
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def frame(self, body):
        return self.send(i32(len(body)) + body)

    def request(self, key, version, body=b"", flexible=False, client="lab"):
        self.correlation += 1
        header = i16(key) + i16(version) + i32(self.correlation) + string(client) + (b"\0" if flexible else b"")
        return self.frame(header + body)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            try:
                part = self.socket.recv(count - len(data))
            except (ConnectionResetError, BrokenPipeError):
                return None
            if not part:
                return None
            data += part
        return data

    def answer(self):
        """The next frame without its length; None where the other side closed. A timeout raises."""
        size = self.exactly(4)
        return None if size is None else self.exactly(struct.unpack(">i", size)[0])

    def closed(self):
        """Waits for the other side to close without a word."""
        return self.answer() is None

    def ask(self, *args, **more):
        self.request(*args, **more)
        return self.answer()


def batch(values, base_offset=0, attributes=0, count=None, crc=None, magic=2, producer=(-1, -1, -1), last_delta=None,
          timestamp_ms=None, length=None, body=None):
    """A record batch (v2) with whatever is to be wrong about it."""
    # Records of long ago would be too old to keep at once.
    timestamp_ms = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
    if body is None:
        body = b""
        for delta, value in enumerate(values):
            content = i8(0) + varint(0) + varint(delta) + varint(-1) + varint(len(value)) + value + varint(0)
            body += varint(len(content)) + content
    tail = (i16(attributes) + i32(len(values) - 1 if last_delta is None else last_delta) + i64(timestamp_ms) + i64(timestamp_ms)
            + i64(producer[0]) + i16(producer[1]) + i32(producer[2]) + i32(len(values) if count is None else count) + body)
    checksum = struct.pack(">I", crc32c.crc32c(tail) if crc is None else crc)
    rest = i32(-1) + i8(magic) + checksum + tail
    return i64(base_offset) + i32(len(rest) if length is None else length) + rest


def produce_body(topic, partition, records, acks=-1, timeout_ms=10000, transactional_id=None):
    """Produce 3 to 8: one partition."""
    payload = i32(-1) if records is None else i32(len(records)) + records
    return (string(transactional_id) + i16(acks) + i32(timeout_ms) + i32(1) + string(topic) + i32(1) + i32(partition) + payload)


def produce(raw, topic, partition, records, version=7, **more):
    """(error code, base offset) of one produce; None where the connection was closed."""
    answer = raw.ask(PRODUCE, version, produce_body(topic, partition, records, **more))
    if answer is None:
        return None
    at = 4 + 4 + 2 + len(topic.encode()) + 4 + 4
    return struct.unpack(">hq", answer[at:at + 10])


def fetch(raw, topic, partition, offset, max_bytes=1 << 20, min_bytes=1, max_wait_ms=500):
    """Fetch 4: (error code, high watermark, records)."""
    body = (i32(-1) + i32(max_wait_ms) + i32(min_bytes) + i32(max_bytes) + i8(0) + i32(1) + string(topic) + i32(1)
            + i32(partition) + i64(offset) + i32(max_bytes))
    answer = raw.ask(FETCH, 4, body)
    if answer is None:
        return None
    at = 4 + 4 + 4 + 2 + len(topic.encode()) + 4 + 4
    error, high, _stable, aborted = struct.unpack(">hqqi", answer[at:at + 22])
    at += 22 + max(0, aborted) * 16
    size, = struct.unpack(">i", answer[at:at + 4])
    return error, high, answer[at + 4:at + 4 + max(0, size)]
