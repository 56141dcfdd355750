"""What goes in comes out: every client, every codec, awkward records."""

import os
import time

import pytest

from labkit import admin
from labkit.paths import unique, wait_until
from labkit.workers import CLIENTS_BY_NAME, WorkerError, record

# Recent enough for retention by time.
T0 = int(time.time() - 3600) * 1000
CLIENTS = list(CLIENTS_BY_NAME.values())
PAIRS = [(c.name, codec) for c in CLIENTS for codec in c.codecs]
NAMES = [c.name for c in CLIENTS]


def awkward(client, count=40):
    """Records with all that this client can say; the text is compressible."""
    out = []
    for i in range(count):
        key = None if i % 5 == 1 else f"key-{i}".encode()
        value = None if i % 7 == 3 and (key or client.null_both) else (f"value {i} ".encode() * (1 + 50 * (i % 3)))
        if client.name != "kcat":  # kcat's -Z makes the empty ones null
            if i % 11 == 5:
                value = b""
            if i % 13 == 6:
                key = b""
            if i % 6 == 2:
                value = bytes(range(256)) * 4
        headers = []
        if i % 4 == 0:
            headers = [("trace", b"\x00\xffid" if client.name != "kcat" else b"id"),
                       ("trace", f"again {i}".encode()), ("kind", b"awkward")]
            if client.null_headers:
                headers.append(("nothing", None))
        out.append(record(value, key, headers, partition=0,
                          timestamp_ms=T0 + i if client.name != "kcat" else None))
    return out


def by_name(headers):
    """Headers grouped by name, order kept within a name (kafkajs keeps a map)."""
    return sorted(headers or [], key=lambda h: h[0])


def same(sent, got, headers="exact"):
    assert len(got) == len(sent)
    for s, g in zip(sent, got):
        assert g["k"] == s["k"], f"key at offset {g['o']}"
        assert g["v"] == s["v"], f"value at offset {g['o']}"
        if headers == "exact":
            assert g["h"] == s.get("h", []), f"headers at offset {g['o']}"
        else:
            assert by_name(g["h"]) == by_name(s.get("h")), f"headers at offset {g['o']}"
        if "t" in s:
            assert g["t"] == s["t"], f"timestamp at offset {g['o']}"


@pytest.mark.parametrize("name,codec", PAIRS, ids=[f"{n}-{c}" for n, c in PAIRS])
def test_every_codec(worker, make_topic, bootstrap, name, codec):
    client = CLIENTS_BY_NAME[name]
    topic = make_topic(stem=f"codec-{codec}")
    sent = awkward(client)
    answer = worker(name).call("produce", bootstrap=bootstrap, topic=topic, codec=codec, records=sent)
    if answer["offsets"]:
        assert answer["offsets"] == [[0, i] for i in range(len(sent))]
    headers = "grouped" if name == "kafkajs" else "exact"
    reader = worker("confluent")
    got = reader.call("consume", bootstrap=bootstrap, topic=topic, steps=[{"from": "beginning", "count": len(sent)}])
    assert [r["o"] for r in got["records"]] == list(range(len(sent)))
    same(sent, got["records"], headers)
    if name != "confluent":
        own = worker(name).call("consume", bootstrap=bootstrap, topic=topic,
                                steps=[{"from": "beginning", "count": len(sent)}])
        same(sent, own["records"], headers)


@pytest.mark.parametrize("name", NAMES)
def test_everyone_reads_everyones_codec(worker, make_topic, bootstrap, name):
    """One partition with a batch of each codec, written by the newest Java client."""
    client = CLIENTS_BY_NAME[name]
    topic = make_topic(stem="all-codecs")
    sent = []
    for codec in client.codecs:
        records = [record(f"{codec} {i} ".encode() * 30, f"{i}".encode(), partition=0) for i in range(25)]
        worker("java-4.3").call("produce", bootstrap=bootstrap, topic=topic, codec=codec, records=records)
        sent += records
    got = worker(name).call("consume", bootstrap=bootstrap, topic=topic, steps=[{"from": "beginning", "count": len(sent)}])
    same(sent, got["records"])


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd", "uncompressed"])
def test_topic_recompresses(worker, make_topic, bootstrap, codec):
    topic = make_topic(config={"compression.type": codec})
    sent = [record(f"line {i} ".encode() * 20, partition=0) for i in range(50)]
    for sender in ("confluent", "java-2.1"):
        worker(sender).call("produce", bootstrap=bootstrap, topic=topic, codec="lz4" if codec != "lz4" else "none", records=sent)
    got = worker("java-4.3").call("consume", bootstrap=bootstrap, topic=topic, steps=[{"from": "beginning", "count": 100}])
    same(sent + sent, got["records"])


@pytest.mark.parametrize("name", NAMES)
def test_one_megabyte(worker, make_topic, bootstrap, name):
    """A record as large as the broker takes, incompressible, there and back."""
    topic = make_topic()
    blob = os.urandom(500_000).hex().encode()[:1_000_000]  # kcat reads text
    sent = [record(blob, b"big", partition=0), record(b"small", b"after", partition=0)]
    worker(name).call("produce", bootstrap=bootstrap, topic=topic, records=sent)
    got = worker(name).call("consume", bootstrap=bootstrap, topic=topic, steps=[{"from": "beginning", "count": 2}])
    same(sent, got["records"])


TOO_LARGE = {
    "confluent": "MSG_SIZE_TOO_LARGE",
    "kafka-python": "MessageSizeTooLargeError",
    "aiokafka": "MessageSizeTooLarge",
    "kafkajs": "MESSAGE_TOO_LARGE",
    "java-4.3": "RecordTooLargeException",
    "java-2.1": "RecordTooLargeException",
    "librdkafka-0.11": "Message size too large",
    "librdkafka-1.8": "Message size too large",
    "kcat": "Message size too large",
}


@pytest.mark.parametrize("name", NAMES)
def test_too_large_is_a_clear_error(worker, make_topic, bootstrap, name):
    topic = make_topic(config={"max.message.bytes": "20000"})
    too_large = [record(os.urandom(15_000).hex().encode(), partition=0)]
    with pytest.raises(WorkerError) as refused:
        worker(name).call("produce", bootstrap=bootstrap, topic=topic, records=too_large)
    assert TOO_LARGE[name].lower() in str(refused.value).lower()
    # The topic takes what fits, afterwards as before, from the first offset on.
    worker(name).call("produce", bootstrap=bootstrap, topic=topic, records=[record(b"fits", partition=0)])
    assert admin.offset(bootstrap, topic) == 1


@pytest.mark.parametrize("name", [c.name for c in CLIENTS if c.idempotent])
def test_idempotent_producer(worker, make_topic, bootstrap, name):
    topic = make_topic(partitions=2)
    sent = [record(f"{i}".encode(), partition=i % 2) for i in range(200)]
    worker(name).call("produce", bootstrap=bootstrap, topic=topic, idempotent=True, records=sent)
    held = admin.read_all(bootstrap, topic, partitions=2, expect=200)
    for p in (0, 1):
        assert [int(v) for _, _, v in held[p]] == list(range(p, 200, 2))
        assert [o for o, _, _ in held[p]] == list(range(100))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "kcat"])
def test_log_append_time(worker, make_topic, bootstrap, name):
    topic = make_topic(config={"message.timestamp.type": "LogAppendTime"})
    worker(name).call("produce", bootstrap=bootstrap, topic=topic, codec="gzip",
                      records=[record(b"x" * 100, partition=0, timestamp_ms=T0 + i) for i in range(5)])
    got = worker(name).call("consume", bootstrap=bootstrap, topic=topic, steps=[{"from": "beginning", "count": 5}])
    # Each batch has one time, the broker's; how many batches it made is the client's affair.
    times = [r["t"] for r in got["records"]]
    assert len(times) == 5 and times == sorted(times)
    assert T0 + 60_000 < times[0] and times[-1] <= time.time() * 1000


@pytest.mark.parametrize("name", [n for n in NAMES if n != "kcat"])
def test_auto_creation(worker, bootstrap, name):
    """Producing to a topic that is not there makes it, with the broker's defaults."""
    topic = unique("auto")
    for again in (True, False):  # librdkafka of old gives up on the first answer: the topic is made by then
        try:
            worker(name).call("produce", bootstrap=bootstrap, topic=topic, records=[record(b"first", b"k")])
            break
        except WorkerError as error:
            assert again and name.startswith("librdkafka") and "Unknown topic" in str(error)
            wait_until(lambda: topic in admin.client(bootstrap).list_topics(timeout=10).topics)
    held = admin.read_all(bootstrap, topic, expect=1)
    assert held[0][0][2] == b"first"


def test_keys_choose_the_same_partition_in_every_client_of_murmur2(worker, make_topic, bootstrap):
    """Java's placing of keys, and those who copy it: one key, one partition, whoever writes."""
    topic = make_topic(partitions=5)
    keys = [f"customer-{i}".encode() for i in range(40)]
    chosen = {}
    for name in ("java-4.3", "java-2.1", "kafka-python", "aiokafka", "kafkajs", "confluent"):
        props = {"partitioner": "murmur2_random"} if name == "confluent" else {}
        worker(name).call("produce", bootstrap=bootstrap, topic=topic, records=[record(name.encode(), k) for k in keys],
                          props=props)
    for partition, rows in admin.read_all(bootstrap, topic, partitions=5, expect=len(keys) * 6).items():
        for _, key, who in rows:
            chosen.setdefault(key, {})[who] = partition
    for key, places in chosen.items():
        assert len(set(places.values())) == 1, f"{key} went to {places}"
    assert len({min(p.values()) for p in chosen.values()}) > 1
