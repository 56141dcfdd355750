"""Bad input: each gets Kafka's error or a clear refusal, the broker lives, and nothing acknowledged is lost."""

import gzip
import os
import random
import socket
import struct
import subprocess
import threading
import time

import pytest

from labkit import admin, wire
from labkit.broker import Broker
from labkit.paths import PEER, TIDEMARK, free_port, unique, wait_until
from labkit.wire import Raw, batch, fetch, i16, i32, i8, produce, string, uvarint

UNKNOWN_SERVER_ERROR, OUT_OF_RANGE, CORRUPT, UNKNOWN_TOPIC, INVALID_TOPIC = -1, 1, 2, 3, 17
INVALID_REQUEST, UNSUPPORTED_VERSION, OUT_OF_ORDER, INVALID_TXN_STATE = 42, 35, 45, 48
INVALID_RECORD, INVALID_REQUIRED_ACKS, UNSUPPORTED_COMPRESSION = 87, 21, 76


@pytest.fixture(scope="module")
def broker():
    with Broker(name="hostile", settings={"auto.create.topics.enable": "false"}) as one:
        yield one


@pytest.fixture
def target(broker):
    """A topic with ten acknowledged records; afterwards the broker lives, holds them, and takes more."""
    topic = admin.create(broker.bootstrap, unique("hostile"))
    with Raw(broker.bootstrap) as raw:
        kept = batch([b"kept %d" % i for i in range(10)])
        wait_until(lambda: produce(raw, topic, 0, kept) == (0, 0), what="the new topic taking records")
    yield topic
    assert broker.alive(), broker.log_tail()
    with Raw(broker.bootstrap) as raw:
        code, offset = produce(raw, topic, 0, batch([b"goes on"]))
        assert code == 0
    rows = admin.read_all(broker.bootstrap, topic)[0]
    assert [v for _, _, v in rows][:10] == [b"kept %d" % i for i in range(10)]
    assert rows[-1][0] == offset and rows[-1][2] == b"goes on"


def resident_mb(broker):
    for line in open(f"/proc/{broker.process.pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024


def served(broker):
    with Raw(broker.bootstrap) as raw:
        return raw.ask(wire.API_VERSIONS, 0) is not None


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "zeros": bytes(64),
    "noise": random.Random(3).randbytes(4096),
    "negative length": i32(-5) + bytes(10),
    "2 GB length": i32(2**31 - 1) + b"\0\3\0\0",
    "over the limit": i32(104857601) + b"\0\3\0\0",
    "empty frame": i32(0),
    "half a header": i32(5) + i16(3) + i16(9) + b"\0",
    "client id past the end": i32(12) + i16(3) + i16(1) + i32(1) + i16(30000) + b"ab",
    "client id of negative length": i32(10) + i16(3) + i16(1) + i32(1) + i16(-7),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_closes_only_its_own_connection(broker, target, name):
    before = resident_mb(broker)
    with Raw(broker.bootstrap, seconds=5) as raw, Raw(broker.bootstrap) as neighbour:
        raw.send(GARBAGE[name])
        if name not in ("noise",):
            assert raw.closed()
        assert neighbour.ask(wire.API_VERSIONS, 0) is not None
    assert resident_mb(broker) - before < (40 if PEER == "tidemark" else 400)


def test_random_frames(broker, target):
    """Well-framed noise under every known key: an answer or a close, never the end."""
    rng = random.Random(20)
    for round_ in range(600):
        with Raw(broker.bootstrap, seconds=5) as raw:
            key = rng.choice([*range(0, 70), 74, 75, 76, -1, 127, 32767])
            version = rng.choice([0, 1, 2, 5, 9, 12, -1])
            body = rng.randbytes(rng.choice([0, 1, 5, 40, 300]))
            raw.request(key, version, body, flexible=rng.random() < 0.5)
            raw.socket.settimeout(0.02)
            try:
                raw.answer()
            except TimeoutError:
                pass  # it may wait for something that the noise asked for
        if round_ % 100 == 0:
            assert served(broker)


def test_half_frames(broker, target):
    """A hundred connections that stop in the middle hold nobody up, and hold no memory."""
    before = resident_mb(broker)
    # Kafka sets aside what the length says, and a hundred of these end it.
    size = 90_000_000 if PEER == "tidemark" else 1_000_000
    halves = []
    try:
        for i in range(100):
            raw = Raw(broker.bootstrap)
            raw.send(i32(size) + i16(0) + i16(7) + bytes(i * 10))
            halves.append(raw)
        for _ in range(20):
            assert served(broker)
        assert resident_mb(broker) - before < (60 if PEER == "tidemark" else 400)
    finally:
        for raw in halves:
            raw.socket.close()
    with Raw(broker.bootstrap) as raw:  # half a frame and gone, in the middle of a request with records
        whole = wire.produce_body(target, 0, batch([b"never whole"]))
        raw.send(i32(len(whole) + 13) + i16(0) + i16(7) + i32(1) + string("lab") + whole[:-5])


@pytest.mark.parametrize("key", [9999, -1, 32767, 20001])
def test_unknown_keys(broker, target, key):
    with Raw(broker.bootstrap, seconds=5) as raw:
        assert raw.ask(key, 0) is None


@pytest.mark.parametrize("key,version", [(3, 99), (3, -1), (1, 0), (1, 3), (2, 0), (0, 99), (19, 0), (11, 99)])
def test_unknown_versions_close(broker, target, key, version):
    with Raw(broker.bootstrap, seconds=5) as raw:
        assert raw.ask(key, version) is None


@pytest.mark.parametrize("version", [5, 99, 32767])
def test_api_versions_answers_an_unknown_version_in_the_oldest(broker, target, version):
    with Raw(broker.bootstrap) as raw:
        answer = raw.ask(wire.API_VERSIONS, version, b"\1\2\3", flexible=True)
        correlation, error, count = struct.unpack(">ihi", answer[:10])
        assert (correlation, error) == (1, UNSUPPORTED_VERSION)
        ranges = {k: (low, high) for k, low, high in (struct.unpack(">hhh", answer[10 + 6 * i:16 + 6 * i]) for i in range(count))}
        assert ranges[18] == (0, 4)
        # The same connection goes on with the version that it was told.
        assert raw.ask(wire.API_VERSIONS, 3, uvarint(4) + b"lab" + uvarint(2) + b"1" + b"\0", flexible=True) is not None


@pytest.mark.ours
@pytest.mark.parametrize("version", [0, 1, 2])
def test_produce_of_old_is_answered_in_its_own_layout(broker, target, version):
    body = i16(-1) + i32(1000) + i32(1) + string(target) + i32(1) + i32(0) + i32(4) + b"abcd"
    with Raw(broker.bootstrap) as raw:
        answer = raw.ask(wire.PRODUCE, version, body)
        at = 4 + 4 + 2 + len(target) + 4
        partition, error, offset = struct.unpack(">ihq", answer[at:at + 14])
        assert (partition, error, offset) == (0, UNSUPPORTED_VERSION, -1)
        assert len(answer) == at + 14 + (8 if version >= 2 else 0) + (4 if version >= 1 else 0)


MALFORMED = {
    "a count of two thousand million": (3, 1, i32(2**31 - 1)),
    "a compact count of four thousand million": (3, 9, b"\xff\xff\xff\xff\x0f"),
    "a count without elements": (3, 1, i32(5)),
    "a negative count": (3, 1, i32(-9)),
    "a string past the end": (3, 1, i32(1) + i16(500) + b"short"),
    "a varint without end": (3, 9, b"\xff" * 12),
    "text that is not UTF-8": (3, 1, i32(1) + i16(2) + b"\xff\xfe"),
    "nothing where something is due": (11, 5, b""),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests(broker, target, name):
    key, version, body = MALFORMED[name]
    before = resident_mb(broker)
    with Raw(broker.bootstrap, seconds=5) as raw:
        answer = raw.ask(key, version, body, flexible=key == 3 and version >= 9)
        if name not in ("text that is not UTF-8", "a negative count"):  # Kafka takes any negative count for null
            assert answer is None
    assert resident_mb(broker) - before < (40 if PEER == "tidemark" else 400)


def test_bytes_behind_the_end_of_a_request_are_passed_over(broker, target):
    """As Kafka does, for librdkafka leaves some: 0.11 behind ApiVersions 0, 2.x behind Metadata 13 for all topics."""
    with Raw(broker.bootstrap) as raw:
        assert raw.ask(wire.API_VERSIONS, 0, i32(-1)) is not None
        assert raw.ask(wire.METADATA, 13, b"\0\1\0\0" + b"\0\0\0", flexible=True) is not None
        answer = produce(raw, target, 0, batch([b"and more"]))
        assert answer[0] == 0


TEN = [b"bad %d" % i for i in range(10)]
BAD_BATCHES = {
    "wrong CRC": (lambda: batch(TEN, crc=12345), {CORRUPT}),
    "count too high": (lambda: batch(TEN, count=11), {INVALID_RECORD}),
    "count too low": (lambda: batch(TEN, count=9), {INVALID_RECORD}),
    "count of two thousand million": (lambda: batch(TEN, count=2**31 - 1), {INVALID_RECORD}),
    "negative count": (lambda: batch(TEN, count=-1), {INVALID_RECORD}),
    "last delta and count differ": (lambda: batch(TEN, last_delta=20), {INVALID_RECORD}),
    "no records": (lambda: batch([], count=0, last_delta=-1), {INVALID_RECORD}),
    "records of magic 1": (lambda: batch(TEN, magic=1), {INVALID_RECORD}),
    "magic of the future": (lambda: batch(TEN, magic=3), {CORRUPT, INVALID_RECORD}),
    "length too short": (lambda: batch(TEN, length=20), {CORRUPT}),
    "length past the end": (lambda: batch(TEN, length=100000), {INVALID_RECORD}),
    "negative length": (lambda: batch(TEN, length=-1), {CORRUPT}),
    "cut in the middle": (lambda: batch(TEN)[:-7], {INVALID_RECORD}),
    "two batches": (lambda: batch(TEN) + batch(TEN), {INVALID_RECORD}),
    "a control batch": (lambda: batch([b"\0\0\0\0\0\0"], attributes=0x20), {INVALID_RECORD}),
    "noise as gzip": (lambda: batch(TEN, attributes=1, body=b"this is not gzip"), {INVALID_RECORD, CORRUPT, UNSUPPORTED_COMPRESSION}),  # Kafka: an unexpected server error
    "noise as zstd": (lambda: batch(TEN, attributes=4, body=b"nor is this zstd"), {INVALID_RECORD, CORRUPT, UNSUPPORTED_COMPRESSION}),  # Kafka: an unexpected server error
    "a codec that nobody knows": (lambda: batch(TEN, attributes=7), {INVALID_RECORD, CORRUPT, UNSUPPORTED_COMPRESSION}),  # Kafka: an unexpected server error
    "a record longer than its batch": (lambda: batch([b"x"], body=wire.varint(5000) + b"abc"), {INVALID_RECORD}),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_bad_batches(broker, target, name):
    make, codes = BAD_BATCHES[name]
    with Raw(broker.bootstrap) as raw:
        answer = produce(raw, target, 0, make())
        if PEER == "kafka":
            if answer == (UNKNOWN_SERVER_ERROR, -1):
                return  # it trips, and says so
        assert answer is not None, "the connection was closed"
        code, offset = answer
        assert code in codes and offset == -1
        # The connection is as good as before.
        assert produce(raw, target, 0, batch([b"fine"]))[0] == 0


def test_a_decompression_bomb(broker, target):
    """100 KB of gzip that unfold to 100 MB of one record."""
    size = 100_000_000
    content = i8(0) + wire.varint(0) + wire.varint(0) + wire.varint(-1) + wire.varint(size) + bytes(size) + wire.varint(0)
    body = gzip.compress(wire.varint(len(content)) + content, 6)
    assert len(body) < 200_000
    before = resident_mb(broker)
    with Raw(broker.bootstrap, seconds=30) as raw:
        answer = produce(raw, target, 0, batch([b""], attributes=1, body=body))
        assert answer is not None
    assert resident_mb(broker) - before < (150 if PEER == "tidemark" else 800)


@pytest.mark.parametrize("version", [3, 7])
def test_a_transactional_batch_without_a_transaction(broker, target, version):
    with Raw(broker.bootstrap) as raw:
        answer = produce(raw, target, 0, batch([b"x"], attributes=0x10, producer=(4711, 0, 0)), version=version)
    assert answer is not None and answer[0] in (INVALID_TXN_STATE, INVALID_REQUEST, INVALID_RECORD, 47, 49, 53, 59, 87, 67)


def test_sequence_gaps_and_duplicates(broker, target):
    """An idempotent producer by hand: a repeat gets its first offset, a gap is refused."""
    with Raw(broker.bootstrap) as raw:
        def initialised():
            answer = raw.ask(wire.INIT_PRODUCER_ID, 0, string(None) + i32(1000))
            _, _, code, *ids = struct.unpack(">iihqh", answer[:20])
            return ids if code == 0 else None

        producer, epoch = wait_until(initialised, what="a producer id")
        first = produce(raw, target, 0, batch([b"a", b"b"], producer=(producer, epoch, 0)))
        assert first == (0, 10)
        assert produce(raw, target, 0, batch([b"c"], producer=(producer, epoch, 2))) == (0, 12)
        assert produce(raw, target, 0, batch([b"a", b"b"], producer=(producer, epoch, 0))) == first
        assert produce(raw, target, 0, batch([b"z"], producer=(producer, epoch, 9)))[0] == OUT_OF_ORDER
        assert produce(raw, target, 0, batch([b"d"], producer=(producer, epoch, 3))) == (0, 13)


def test_unknown_topics_and_partitions(broker, target):
    with Raw(broker.bootstrap) as raw:
        assert produce(raw, unique("nowhere"), 0, batch([b"x"]))[0] == UNKNOWN_TOPIC
        assert produce(raw, target, 77, batch([b"x"]))[0] == UNKNOWN_TOPIC
        assert produce(raw, target, -1, batch([b"x"]))[0] == UNKNOWN_TOPIC
        assert fetch(raw, unique("nowhere"), 0, 0)[0] == UNKNOWN_TOPIC
        assert fetch(raw, target, 5, 0)[0] == UNKNOWN_TOPIC
        assert fetch(raw, target, 0, 10_000)[0] == OUT_OF_RANGE
        assert fetch(raw, target, 0, -5)[0] == OUT_OF_RANGE
        name = "../../etc/passwd"
        assert produce(raw, name, 0, batch([b"x"]))[0] in (UNKNOWN_TOPIC, INVALID_TOPIC)


@pytest.mark.parametrize("acks", [2, -2, 77])
def test_bad_acks(broker, target, acks):
    with Raw(broker.bootstrap) as raw:
        assert produce(raw, target, 0, batch([b"x"]), acks=acks)[0] == INVALID_REQUIRED_ACKS


def test_strange_fetches(broker, target):
    with Raw(broker.bootstrap) as raw:
        # A limit below the size of the first batch still gives that batch (KIP-74).
        error, high, records = fetch(raw, target, 0, 3, max_bytes=1)
        assert error == 0 and high == 10 and len(records) > 60
        assert fetch(raw, target, 0, 10, max_bytes=-1, max_wait_ms=0)[0] in (0, INVALID_REQUEST)
        error, _, records = fetch(raw, target, 0, 10, min_bytes=2**31 - 1, max_wait_ms=100)
        assert (error, records) == (0, b"")


def test_many_requests_without_reading_the_answers(broker, target):
    """Two thousand at once on one connection: answered in order."""
    with Raw(broker.bootstrap, seconds=20) as raw:
        sender = threading.Thread(target=lambda: [raw.request(wire.METADATA, 1, i32(1) + string(target)) for _ in range(2000)])
        sender.start()
        for expected in range(1, 2001):
            answer = raw.answer()
            assert struct.unpack(">i", answer[:4])[0] == expected
        sender.join()


def test_five_hundred_idle_connections(broker, target):
    before = resident_mb(broker)
    idle = [socket.create_connection(("127.0.0.1", broker.port)) for _ in range(500)]
    try:
        assert served(broker)
        assert resident_mb(broker) - before < (50 if PEER == "tidemark" else 400)
    finally:
        for one in idle:
            one.close()


# --- at start, and on disk ---------------------------------------------------------


def starts(*args, seconds=15):
    """Exit code and words of a start that ought to be refused."""
    process = subprocess.Popen([str(TIDEMARK), *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    try:
        words, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        words, _ = process.communicate()
        raise AssertionError(f"it started all the same:\n{words}") from None
    return process.returncode, words


@pytest.mark.ours
@pytest.mark.parametrize("setting", ["no.such.setting=1", "log.segment.bytes=banana", "num.partitions=-3", "log.retention.ms=",
                                     "num.partitions", "=5"])
def test_bad_settings_at_start(tmp_path, setting):
    code, words = starts("dev", "--listen", f"127.0.0.1:{free_port()}", "--data", tmp_path / "data", "--set", setting)
    assert code not in (0, None) and code < 128, (code, words)
    name = setting.split("=")[0]
    assert name in words and "panicked" not in words


@pytest.mark.ours
def test_a_port_in_use(tmp_path, broker):
    code, words = starts("dev", "--listen", broker.bootstrap, "--data", tmp_path / "data")
    assert code not in (0, None) and str(broker.port) in words and "panicked" not in words


@pytest.mark.ours
def test_a_data_directory_in_use(broker):
    code, words = starts("dev", "--listen", f"127.0.0.1:{free_port()}", "--data", broker.data)
    assert code not in (0, None) and str(broker.data) in words and "panicked" not in words
    assert served(broker)


@pytest.mark.ours
def test_a_data_directory_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("not a folder")
    code, words = starts("dev", "--listen", f"127.0.0.1:{free_port()}", "--data", tmp_path / "data")
    assert code not in (0, None) and "data" in words and "panicked" not in words


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 48 MB of its own."""
    at = tmp_path / "disk"
    at.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", at], capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    yield at
    for _ in range(50):
        if subprocess.run(["umount", at], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", at])


@pytest.mark.ours
@pytest.mark.parametrize("taken_mb", [16, 22])
def test_a_full_disk(small_disk, own_broker, taken_mb):
    """What is acknowledged is kept, what is not is refused, and with room again it goes on.

    There is room for one file of the write-ahead log, and little else."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(taken_mb << 20))
    broker = own_broker(data=small_disk / "data", settings={"log.index.size.max.bytes": "65536"})
    topic = admin.create(broker.bootstrap, unique("full"))
    blob = os.urandom(200_000)
    acked = []
    with Raw(broker.bootstrap, seconds=30) as raw:
        for i in range(400):
            answer = produce(raw, topic, 0, batch([b"%06d" % i + blob]))
            if answer is None or answer[0] != 0:
                break
            acked.append((answer[1], b"%06d" % i))
        else:
            raise AssertionError("80 MB went onto a disk of 48")
    assert len(acked) >= 10
    if answer is not None:
        assert answer[0] in (56, 7, UNKNOWN_SERVER_ERROR), answer  # KAFKA_STORAGE_ERROR, or a retriable one
    ballast.unlink()
    if not broker.alive() or not _takes(broker, topic):
        # A failed disk may end the process or its service: it says why, and the next start serves.
        assert "space" in broker.log().lower() or "ENOSPC" in broker.log(), broker.log_tail()
        broker.restart("kill")
    wait_until(lambda: _takes(broker, topic), 20, "the topic taking records again")
    rows = admin.read_all(broker.bootstrap, topic)[0]
    held = {o: v[:6] for o, _, v in rows}
    assert [(o, held.get(o)) for o, _ in acked] == acked
    assert [o for o, _, _ in rows] == list(range(len(rows)))


def _takes(broker, topic):
    try:
        with Raw(broker.bootstrap, seconds=5) as raw:
            answer = produce(raw, topic, 0, batch([b"room again"]))
            return answer is not None and answer[0] == 0
    except OSError:
        return False


def _filled(broker, topic, count=60):
    """Records of 50 KB over several segments: their values."""
    values = [b"%06d" % i + random.Random(i).randbytes(50_000) for i in range(count)]
    with Raw(broker.bootstrap) as raw:
        for i, value in enumerate(values):
            assert produce(raw, topic, 0, batch([value])) == (0, i)
    return values


@pytest.mark.ours
@pytest.mark.parametrize("how", ["flipped bit in the middle", "flipped bit in the last batch", "cut in a batch", "zeros at the end",
                                 "noise at the end", "missing index", "noise as index"])
def test_a_corrupt_segment_at_start(own_broker, how):
    """The broker starts; nothing altered is ever given out; other topics are whole."""
    broker = own_broker()
    hurt = admin.create(broker.bootstrap, unique("hurt"), config={"segment.bytes": str(1 << 20)})
    whole = admin.create(broker.bootstrap, unique("whole"))
    values = _filled(broker, hurt)
    others = _filled(broker, whole, 10)
    folder = broker.partition_dir(hurt, 0)
    # After a kill the write-ahead log would write the segments again.
    broker.stop()
    segments = sorted(folder.glob("*.log"))
    assert len(segments) >= 3
    last, middle = segments[-1], segments[1]
    lossless, noticed = True, False
    if how == "flipped bit in the middle":
        # Within a batch: its first 21 bytes (offset, length, epoch) are outside of its CRC.
        _flip(middle, middle.stat().st_size // 2 + 1000)
        lossless = False
    elif how == "flipped bit in the last batch":
        _flip(last, last.stat().st_size - 500)
        lossless = False
    elif how == "cut in a batch":
        os.truncate(last, last.stat().st_size - 700)
        lossless, noticed = False, True
    elif how in ("zeros at the end", "noise at the end"):
        with open(last, "ab") as file:
            file.write(bytes(5000) if how.startswith("zeros") else random.Random(1).randbytes(5000))
    else:
        for index in [*folder.glob("*.index"), *folder.glob("*.timeindex")]:
            index.unlink() if how.startswith("missing") else index.write_bytes(random.Random(2).randbytes(4096))
    broker.start()
    rows = admin.read_all(broker.bootstrap, whole, expect=10)[0]
    assert [v for _, _, v in rows] == others
    got = _read_what_is_given(broker, hurt)
    for offset, value in got:
        assert value == values[offset], f"offset {offset} was altered"
    assert [o for o, _ in got] == list(range(len(got))), "a record in the middle was left out"
    if lossless:
        assert len(got) == len(values)
    else:
        # A flipped bit is noticed by the client, whose CRC it spoils; lost bytes by the broker.
        assert len(got) < len(values)
        words = broker.log()
        assert not noticed or hurt in words or folder.name in words, "the damage is not spoken of"
    assert broker.alive()


def _flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def _read_what_is_given(broker, topic):
    """Raw fetches up to the first error or the end: (offset, value) of whole batches of one record."""
    out, at = [], 0
    with Raw(broker.bootstrap, seconds=20) as raw:
        while True:
            answer = fetch(raw, topic, 0, at, max_wait_ms=0)
            if answer is None or answer[0] != 0 or not answer[2]:
                return out
            records = answer[2]
            while len(records) >= 61:
                base, length = struct.unpack(">qi", records[:12])
                if len(records) < 12 + length:
                    break
                one, records = records[:12 + length], records[12 + length:]
                checksum, = struct.unpack(">I", one[17:21])
                import crc32c
                if crc32c.crc32c(one[21:]) != checksum:
                    return out  # a client refuses it by itself
                value = one[61:]
                start = value.index(b"%06d" % base)
                out.append((base, value[start:-1]))
                at = base + 1
            else:
                continue
            if not out or out[-1][0] + 1 != at:
                return out


