"""Apache Kafka's own tool classes against three brokers: replicas moved under a throttle, leaders elected."""

import json
import re
import subprocess

import pytest

from labkit.broker import tool
from labkit.paths import TIDEMARK, free_port, unique, wait_until

pytestmark = pytest.mark.ours


class Three(str):
    """The address of three brokers of one process, and the directory of each."""

    def directory(self, broker):
        return self.data / f"broker-{broker}"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder, address = tmp_path_factory.mktemp("three"), f"127.0.0.1:{free_port(3)}"
    log = folder / "log"
    with open(log, "wb") as out:
        process = subprocess.Popen([TIDEMARK, "dev", "--brokers", "3", "--listen", address, "--data", folder / "data"],
                                   stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        def ready():
            assert process.poll() is None, log.read_text()
            return re.search(r"\bready\b", log.read_text())

        wait_until(ready, 60, "three brokers being ready")
        at = Three(address)
        at.data = folder / "data"
        yield at
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
    # Two minutes, and then seconds.
    rate, faster, sent = 100_000, 10_000_000, 12_000_000
    tool("TopicCommand", *at, "--create", "--topic", topic, "--partitions", 1, "--replication-factor", 2)
    tool("ProducerPerformance", *at, "--topic", topic, "--num-records", sent // 1000, "--record-size", 1000, "--throughput", -1)
    leader, before, _ = described(at, topic)
    new = ({1, 2, 3} - set(before)).pop()
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "replicas": [leader, new]}]}))
    file = ("--reassignment-json-file", plan)
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
    assert described(at, topic)[2] == before, "what is held back is not in sync"
    tool("ReassignPartitionsCommand", *at, "--execute", "--additional", *file, "--throttle", faster)
    wait_until(lambda: described(at, topic)[1] == [leader, new], 60, "the move")
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


def test_a_controller_loses_its_vote_and_gets_it_back(three, tmp_path):
    at, topic = ("--bootstrap-server", three), unique("voted")
    tool("TopicCommand", *at, "--create", "--topic", topic, "--partitions", 3, "--replication-factor", 3)

    def said():
        status = tool("MetadataQuorumCommand", *at, "describe", "--status")
        members = (json.loads(re.search(what + r":\s+(\[.*\])", status)[1]) for what in ("CurrentVoters", "CurrentObservers"))
        voters, observers = ({one["id"]: one for one in many} for many in members)
        return int(re.search(r"LeaderId:\s+(-?\d+)", status)[1]), voters, observers

    leader, voters, _ = said()
    # One that follows, then the one that leads.
    for gone in (min(set(voters) - {leader}), leader):
        voter, directory = voters[gone], three.directory(gone)
        tool("MetadataQuorumCommand", *at, "remove-controller", "--controller-id", gone,
             "--controller-directory-id", voter["directoryId"])
        # It hears of what the others decide, and serves on.
        wait_until(lambda: said()[0] not in (gone, -1) and set(said()[2]) == {gone}, 30, f"{gone} following without a vote")
        assert gone not in said()[1]
        partitions = f"{topic}-{gone}"
        tool("TopicCommand", *at, "--create", "--topic", partitions, "--replica-assignment", gone)
        wait_until(lambda: described(at, partitions) == (gone, [gone], [gone]), 30, "a replica there")
        tool("ProducerPerformance", *at, "--topic", partitions, "--num-records", 10, "--record-size", 10, "--throughput", -1)
        config = tmp_path / f"{gone}.properties"
        endpoint = voter["endpoints"][0]
        config.write_text(f"process.roles=broker,controller\nnode.id={gone}\nlog.dirs={directory}\n"
                          f"controller.listener.names=CONTROLLER\nlisteners={endpoint}\nadvertised.listeners={endpoint}\n")
        tool("MetadataQuorumCommand", *at, "--command-config", config, "add-controller")
        wait_until(lambda: set(said()[1]) == {1, 2, 3} and not said()[2], 30, f"the vote of {gone}")
