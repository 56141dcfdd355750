"""Health, metrics, telemetry, and the broker from a file."""

import json
import re
import signal
import struct
import subprocess
import urllib.error
import urllib.request

import pytest

from labkit import admin, wire
from labkit.broker import tool
from labkit.paths import TIDEMARK, free_port, unique, wait_until
from labkit.wire import Raw
from labkit.workers import record

pytestmark = pytest.mark.ours


def http_of(broker):
    return re.search(r"http://127\.0\.0\.1:\d+", broker.log()).group()


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_metrics(own_broker, worker):
    broker = own_broker()
    at = http_of(broker)
    assert get(at + "/livez")[0] == 200 and get(at + "/readyz")[0] == 200
    status, state = get(at + "/state")
    assert status == 200 and json.loads(state)
    assert get(at + "/nowhere")[0] == 404
    topic = admin.create(broker.bootstrap, unique(), 1)
    worker("confluent").call("produce", bootstrap=broker.bootstrap, topic=topic, records=[record(b"x" * 1000, partition=0)] * 10)
    status, text = get(at + "/metrics")
    assert status == 200
    samples = re.findall(r"^(tidemark_[a-z0-9_]+)(\{[^}]*\})? ([-+0-9.eE]+|NaN|[+-]Inf)$", text, re.M)
    assert len(samples) > 10
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(re.findall(r"^[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^}]*\})? \S+$", text, re.M)), "a line that is no sample"


def test_telemetry_is_taken_and_dropped(bootstrap, worker, make_topic):
    """KIP-714: a client that pushes its metrics is answered, and nothing comes of it."""
    with Raw(bootstrap) as raw:
        answer = raw.ask(71, 0, bytes(16) + b"\0", flexible=True)
        _, _, _, error = struct.unpack(">ibih", answer[:11])
        assert error == 0
        instance, subscription = answer[11:27], answer[27:31]
        assert instance != bytes(16)
        body = instance + subscription + b"\0" + b"\0" + wire.uvarint(9) + b"nonsense" + b"\0"
        answer = raw.ask(72, 0, body, flexible=True)
        assert answer is not None
        assert raw.ask(wire.API_VERSIONS, 0) is not None
    topic = make_topic()
    worker("java-4.3").call("produce", bootstrap=bootstrap, topic=topic, props={"enable.metrics.push": "true"},
                            records=[record(b"x", partition=0)])
    worker("confluent").call("produce", bootstrap=bootstrap, topic=topic, props={"enable.metrics.push": True},
                             records=[record(b"y", partition=0)])
    admin.read_all(bootstrap, topic, expect=2)


def test_a_broker_from_a_file(tmp_path):
    """`broker --config FILE`, a setting over it, and a clean stop by SIGTERM."""
    port = free_port()
    log = tmp_path / "broker.log"
    (tmp_path / "broker.yaml").write_text(
        f"config:\n  listeners: PLAINTEXT://127.0.0.1:{port}\n  log.dirs: {tmp_path / 'data'}\n  num.partitions: 3\n")
    subprocess.run([str(TIDEMARK), "format", "--config", str(tmp_path / "broker.yaml")], check=True)
    with open(log, "wb") as out:
        process = subprocess.Popen([str(TIDEMARK), "broker", "--config", str(tmp_path / "broker.yaml"),
                                    "--set", "log.retention.hours=5"], stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or "ready" in log.read_text(), 20, "the broker being ready")
        assert process.poll() is None, log.read_text()
        topic = unique()
        tool("TopicCommand", "--bootstrap-server", f"127.0.0.1:{port}", "--create", "--topic", topic)
        assert len(admin.client(f"127.0.0.1:{port}").list_topics(topic, timeout=10).topics[topic].partitions) == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        if process.poll() is None:
            process.kill()
