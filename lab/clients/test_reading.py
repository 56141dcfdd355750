"""Reading from the beginning, the end, a time, an offset, and backwards."""

import time

import pytest
from confluent_kafka.admin import OffsetSpec

from labkit import admin
from labkit.workers import CLIENTS_BY_NAME, WorkerError, record, unb64

NAMES = [c.name for c in CLIENTS_BY_NAME.values() if c.lookup]
# Recent enough for retention by time, old enough to lie before anything written now.
T0 = int(time.time() - 3600) * 1000


@pytest.fixture
def hundred(worker, make_topic, bootstrap):
    """100 records in batches of ten, a second between the timestamps of two."""
    topic = make_topic()
    for at in range(0, 100, 10):
        worker("confluent").call("produce", bootstrap=bootstrap, topic=topic, records=[
            record(f"{i}".encode(), partition=0, timestamp_ms=T0 + 1000 * i) for i in range(at, at + 10)])
    return topic


def numbers(answer):
    return [int(unb64(r["v"])) for r in answer["records"]]


@pytest.mark.parametrize("name", NAMES)
def test_beginning_offset_time_backwards(worker, hundred, bootstrap, name):
    """All on one topic; each step seeks, the last two backwards."""
    steps = [
        ({"offset": 37}, 20, range(37, 57)),          # into the middle of a batch
        ({"time": T0 + 60_500}, 10, range(61, 71)),   # between two records
        ({"time": T0 + 80_000}, 5, range(80, 85)),    # exactly one
        ({"offset": 90}, 10, range(90, 100)),
        ({"offset": 41}, 9, range(41, 50)),           # backwards
        ("beginning", 15, range(0, 15)),              # and to the start
    ]
    answer = worker(name).call("consume", bootstrap=bootstrap, topic=hundred,
                               steps=[{"from": start, "count": count} for start, count, _ in steps])
    wanted = [i for _, _, numbers_ in steps for i in numbers_]
    assert numbers(answer) == wanted
    assert [r["o"] for r in answer["records"]] == wanted


@pytest.mark.parametrize("name", NAMES)
def test_from_the_end(worker, hundred, bootstrap, name):
    """Only what comes after the reader took its place."""
    waiting = worker(name).begin("consume", bootstrap=bootstrap, topic=hundred, steps=[{"from": "end", "count": 3}])
    waiting.event("positioned")
    worker("confluent").call("produce", bootstrap=bootstrap, topic=hundred,
                             records=[record(f"{i}".encode(), partition=0) for i in (100, 101, 102)])
    assert numbers(waiting.result()) == [100, 101, 102]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("kcat", "kafkajs")])
def test_time_after_the_last_record(worker, hundred, bootstrap, name):
    answer = worker(name).call("consume", bootstrap=bootstrap, topic=hundred,
                               steps=[{"from": {"time": T0 + 1_000_000}, "count": 1}])
    assert answer.get("at_end") is True


@pytest.mark.parametrize("name", ["java-4.3", "java-2.1", "kafka-python"])
def test_offset_out_of_range_is_said(worker, hundred, bootstrap, name):
    with pytest.raises(WorkerError, match="(?i)out.?of.?range"):
        worker(name).call("consume", bootstrap=bootstrap, topic=hundred, steps=[{"from": {"offset": 5000}, "count": 1}])


def test_list_offsets_special_timestamps(hundred, make_topic, worker, bootstrap):
    at = lambda spec: admin.offset(bootstrap, hundred, 0, spec)  # noqa: E731
    assert at(OffsetSpec.earliest()) == 0
    assert at(OffsetSpec.latest()) == 100
    assert at(OffsetSpec.max_timestamp()) == 99
    assert at(OffsetSpec.for_timestamp(T0 + 41_001)) == 42
    assert at(OffsetSpec.for_timestamp(0)) == 0
    assert at(OffsetSpec.for_timestamp(T0 + 10_000_000)) == -1
    empty = make_topic()
    assert admin.offset(bootstrap, empty, 0, OffsetSpec.earliest()) == 0
    assert admin.offset(bootstrap, empty, 0, OffsetSpec.latest()) == 0
    assert admin.offset(bootstrap, empty, 0, OffsetSpec.max_timestamp()) == -1
    assert admin.offset(bootstrap, empty, 0, OffsetSpec.for_timestamp(1)) == -1
    # The largest timestamp is not always the newest record.
    worker("confluent").call("produce", bootstrap=bootstrap, topic=empty, records=[
        record(b"x", partition=0, timestamp_ms=t) for t in (T0, T0 + 5000, T0 + 3000)])
    assert admin.offset(bootstrap, empty, 0, OffsetSpec.max_timestamp()) == 1


def test_one_partition_gives_total_order(worker, own_worker, make_topic, bootstrap):
    """Four writers at once; three readers in three languages see one and the same order."""
    topic = make_topic()
    writers = [own_worker("confluent") for _ in range(2)] + [worker("java-4.3"), worker("kafkajs")]
    pending = [w.begin("produce", bootstrap=bootstrap, topic=topic, idempotent=True, records=[
        record(f"{n}:{i}".encode(), partition=0) for i in range(250)]) for n, w in enumerate(writers)]
    for one in pending:
        one.result()
    seen = []
    for name in ("java-2.1", "kafkajs", "aiokafka"):
        answer = worker(name).call("consume", bootstrap=bootstrap, topic=topic, steps=[{"from": "beginning", "count": 1000}])
        assert [r["o"] for r in answer["records"]] == list(range(1000))
        seen.append([unb64(r["v"]).decode() for r in answer["records"]])
    assert seen[0] == seen[1] == seen[2]
    for n in range(4):
        assert [v for v in seen[0] if v.startswith(f"{n}:")] == [f"{n}:{i}" for i in range(250)]
