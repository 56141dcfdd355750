"""The command line, against tidemark and against Apache Kafka: it works with any cluster."""

import json
import subprocess

import pytest

from labkit import admin
from labkit.broker import Broker, tidemark
from labkit.paths import TIDEMARK, free_port, unique, wait_until
from labkit.workers import record

pytestmark = [pytest.mark.ours, pytest.mark.xdist_group("cli")]


@pytest.fixture(scope="module")
def kafka():
    with Broker(kind="kafka", name="cli-peer") as one:
        yield one.bootstrap


@pytest.fixture(params=["tidemark", "kafka"])
def at(request, bootstrap):
    return bootstrap if request.param == "tidemark" else request.getfixturevalue("kafka")


def run(at, *args, **more):
    return tidemark("-b", at, *args, **more)


def asked(at, *args, **more):
    return json.loads(run(at, "-o", "json", *args, **more))


def created(at, partitions=1, *more):
    name = unique("cli")
    run(at, "topic", "create", name, "-p", partitions, *more)
    wait_until(lambda: name in admin.client(at).list_topics(timeout=10).topics)
    return name


def test_topics(at):
    name = created(at, 3, "--set", "retention.ms=7200000")
    assert name in run(at, "topic", "list")
    described = run(at, "topic", "describe", name)
    assert "retention.ms" in described and "7200000" in described
    assert json.dumps(asked(at, "topic", "describe", name)).count('"partition"') >= 3
    again = run(at, "topic", "create", name, check=False)
    assert again.returncode == 1 and "already exists" in again.stderr.lower()
    run(at, "topic", "create", name, "--if-not-exists")
    run(at, "topic", "alter", name, "--partitions", 5, "--set", "max.message.bytes=5000")
    wait_until(lambda: "5000" in run(at, "topic", "describe", name))
    assert len(admin.client(at).list_topics(name, timeout=10).topics[name].partitions) == 5
    run(at, "topic", "delete", name)  # shows what would go, and does nothing
    assert name in admin.client(at).list_topics(timeout=10).topics
    run(at, "topic", "delete", name, "--execute")
    wait_until(lambda: name not in admin.client(at).list_topics(timeout=10).topics)
    missing = run(at, "topic", "describe", name, check=False)
    assert missing.returncode == 1 and name in missing.stderr
    wrong = run(at, "topic", "create", unique(), "--set", "retention.mms=1", check=False)
    assert wrong.returncode == 1 and "retention.mms" in wrong.stderr


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_lines_in_lines_out(at, worker, codec):
    name = created(at)
    lines = [f"line {i} with some text to compress" for i in range(500)]
    run(at, "produce", name, "-z", codec, stdin="\n".join(lines) + "\n")
    assert run(at, "consume", name, "--from", "beginning").splitlines() == lines
    assert run(at, "consume", name, "--from", "beginning", "-n", 3).splitlines() == lines[:3]
    assert run(at, "consume", name, "--from", "490").splitlines() == lines[490:]
    assert run(at, "consume", name, "--from", "end-5").splitlines() == lines[-5:]
    got = worker("java-4.3").call("consume", bootstrap=at, topic=name, steps=[{"from": "beginning", "count": 500}])
    assert len(got["records"]) == 500


def test_keys_go_where_java_puts_them(at, worker):
    name = created(at, 7)
    keys = [f"customer-{i}" for i in range(60)]
    run(at, "produce", name, "-k", ":", stdin="".join(f"{k}:cli\n" for k in keys))
    worker("java-4.3").call("produce", bootstrap=at, topic=name, records=[record(b"java", k.encode()) for k in keys])
    places = {}
    for partition, rows in admin.read_all(at, name, partitions=7, expect=120).items():
        for _, key, _ in rows:
            places.setdefault(key, []).append(partition)
    assert all(len(p) == 2 and p[0] == p[1] for p in places.values()), places


def test_partitions_by_hand_and_in_turn(at):
    name = created(at, 3)
    run(at, "produce", name, "--partition", 2, stdin="a\nb\n")
    run(at, "produce", name, "--round-robin", stdin="".join(f"{i}\n" for i in range(9)))
    sizes = {p: len(rows) for p, rows in admin.read_all(at, name, partitions=3, expect=11).items()}
    assert sizes == {0: 3, 1: 3, 2: 5}
    assert sorted(run(at, "consume", name, "--partition", 2, "--from", "beginning").split())[-2:] == ["a", "b"]


def test_json_round_trip_with_headers_and_nulls(at):
    name, copy = created(at), created(at)
    run(at, "produce", name, "-k", ":", "--null", "NULL", "-H", "trace=abc", stdin="k:v\nNULL:only value\nonly key:NULL\n")
    out = run(at, "consume", name, "--from", "beginning", "-o", "json")
    records = [json.loads(line) for line in out.splitlines()]
    assert len(records) == 3
    run(at, "produce", copy, "--input", "json", stdin=out)
    again = [json.loads(line) for line in run(at, "consume", copy, "--from", "beginning", "-o", "json").splitlines()]
    for one in [*records, *again]:
        one.pop("topic", None), one.pop("timestamp", None), one.pop("timestamp_ms", None)
    assert records == again


def test_groups(at):
    name, group = created(at, 2), unique("cli-group")
    run(at, "produce", name, "--round-robin", stdin="".join(f"{i}\n" for i in range(40)))
    assert sorted(map(int, run(at, "consume", name, "--group", group, "-n", 40).split())) == list(range(40))
    assert group in run(at, "group", "list")
    described = run(at, "group", "describe", group)
    assert name in described and "20" in described
    before = run(at, "consume", name, "--group", group)
    assert before.strip() == ""
    dry = run(at, "group", "reset", group, "--to", "beginning")
    assert "--execute" in dry
    assert run(at, "consume", name, "--group", group).strip() == ""
    run(at, "group", "reset", group, "--to", "beginning", "--execute")
    assert len(run(at, "consume", name, "--group", group).split()) == 40
    run(at, "group", "delete", group, "--execute")
    wait_until(lambda: group not in run(at, "group", "list"))
    missing = run(at, "group", "describe", group, check=False)
    assert missing.returncode == 1


def test_trim(at):
    name = created(at)
    run(at, "produce", name, stdin="".join(f"{i}\n" for i in range(30)))
    run(at, "topic", "trim", name, "--before", "20")
    assert len(run(at, "consume", name, "--from", "beginning").split()) == 30
    run(at, "topic", "trim", name, "--before", "20", "--execute")
    assert run(at, "consume", name, "--from", "beginning").split() == [str(i) for i in range(20, 30)]


def test_follow_shows_what_comes(at):
    name = created(at)
    reader = subprocess.Popen([str(TIDEMARK), "-b", at, "consume", name, "--follow", "--from", "beginning", "-n", "2"],
                              stdout=subprocess.PIPE, text=True)
    try:
        run(at, "produce", name, stdin="first\n")
        assert reader.stdout.readline() == "first\n"
        run(at, "produce", name, stdin="second\n")
        assert reader.communicate(timeout=20)[0] == "second\n"
    finally:
        reader.kill()


def test_exit_codes(at):
    assert tidemark("topic", "sing", check=False).returncode == 2
    assert tidemark("--no-such-option", check=False).returncode == 2
    nobody = tidemark("-b", f"127.0.0.1:{free_port()}", "--timeout", "2s", "topic", "list", check=False)
    assert nobody.returncode == 3 and "127.0.0.1" in nobody.stderr
    assert run(at, "topic", "list", check=False).returncode == 0


def test_doctor_finds_a_running_cluster(at):
    seen = run(at, "doctor", check=False)
    assert seen.returncode in (0, 1), seen.stderr
    assert seen.stdout.strip()
    json.loads(run(at, "-o", "json", "doctor", check=False).stdout)
