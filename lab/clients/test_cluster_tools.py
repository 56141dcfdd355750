"""Apache Kafka's own tool classes against three brokers: replicas moved under a throttle, leaders elected."""

import json
import re
import subprocess
import time

import pytest

from labkit.broker import tool
from labkit.paths import TIDEMARK, free_port, unique, wait_until

pytestmark = pytest.mark.ours


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The address of three brokers of one process."""
    folder, address = tmp_path_factory.mktemp("three"), f"127.0.0.1:{free_port()}"
    log = folder / "log"
    with open(log, "wb") as out:
        process = subprocess.Popen([TIDEMARK, "dev", "--brokers", "3", "--listen", address, "--data", folder / "data"],
                                   stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        def ready():
            assert process.poll() is None, log.read_text()
            return re.search(r"\bready\b", log.read_text())

        wait_until(ready, 60, "three brokers being ready")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def described(at, topic):
    """Leader, replicas and ISR of a topic's only partition."""
    said = tool("TopicCommand", *at, "--describe", "--topic", topic)
    leader = int(re.search(r"Leader: (\d+)", said)[1])
    replicas, isr = ([int(id) for id in re.search(what + r": ([\d,]+)", said)[1].split(",")] for what in ("Replicas", "Isr"))
    return leader, replicas, isr


def test_a_move_is_held_to_its_throttle_which_goes_with_its_end(three, tmp_path):
    at, topic = ("--bootstrap-server", three), unique("moved")
    rate, sent = 1_000_000, 12_000_000
    tool("TopicCommand", *at, "--create", "--topic", topic, "--partitions", 1, "--replication-factor", 2)
    tool("ProducerPerformance", *at, "--topic", topic, "--num-records", sent // 1000, "--record-size", 1000, "--throughput", -1)
    leader, before, _ = described(at, topic)
    new = ({1, 2, 3} - set(before)).pop()
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "replicas": [leader, new]}]}))
    file = ("--reassignment-json-file", plan)
    began = time.monotonic()
    tool("ReassignPartitionsCommand", *at, "--execute", *file, "--throttle", rate)

    def throttles():
        return (tool("ConfigCommand", *at, "--entity-type", "brokers", "--entity-name", new, "--describe")
                + tool("ConfigCommand", *at, "--entity-type", "topics", "--entity-name", topic, "--describe"))

    said = throttles()
    assert f"follower.replication.throttled.rate={rate}" in said, said
    assert f"follower.replication.throttled.replicas=0:{new}" in said, said
    under_way = tool("ReassignPartitionsCommand", *at, "--verify", *file)
    assert "still in progress" in under_way, under_way
    assert "throttled.rate" in throttles(), "a move under way keeps its throttle"
    wait_until(lambda: described(at, topic)[1] == [leader, new], 60, "the move")
    # A second's worth and one fetch go at once.
    assert time.monotonic() - began > sent / rate - 3
    verified = tool("ReassignPartitionsCommand", *at, "--verify", *file)
    assert "is completed." in verified, verified
    assert "throttled" not in throttles()


def test_the_preferred_leader_is_elected(three, tmp_path):
    at, topic = ("--bootstrap-server", three), unique("elected")
    tool("TopicCommand", *at, "--create", "--topic", topic, "--partitions", 1, "--replication-factor", 3)
    leader, replicas, _ = described(at, topic)
    preferred = next(id for id in replicas if id != leader)
    plan = tmp_path / "plan.json"
    order = [preferred] + [id for id in replicas if id != preferred]
    plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "replicas": order}]}))
    tool("ReassignPartitionsCommand", *at, "--execute", "--reassignment-json-file", plan)
    wait_until(lambda: described(at, topic)[1] == order, 20, "the new order")
    elected = tool("LeaderElectionCommand", *at, "--election-type", "preferred", "--topic", topic, "--partition", 0)
    assert f"{topic}-0" in elected, elected
    assert described(at, topic)[0] == preferred
