"""Apache Kafka's own tool classes against the broker."""

import json
import re

from labkit.broker import tool
from labkit.paths import unique, wait_until
from labkit.workers import record


def test_topics_and_configs(bootstrap):
    topic = unique("tools")
    at = ("--bootstrap-server", bootstrap)
    tool("TopicCommand", *at, "--create", "--topic", topic, "--partitions", 3, "--config", "retention.ms=7200000")
    listed = tool("TopicCommand", *at, "--list").split()
    assert topic in listed
    described = tool("TopicCommand", *at, "--describe", "--topic", topic)
    assert "PartitionCount: 3" in described and "ReplicationFactor: 1" in described
    assert "retention.ms=7200000" in described and described.count("Leader: ") == 3
    tool("TopicCommand", *at, "--alter", "--topic", topic, "--partitions", 4)
    assert "PartitionCount: 4" in tool("TopicCommand", *at, "--describe", "--topic", topic)

    entity = (*at, "--entity-type", "topics", "--entity-name", topic)
    tool("ConfigCommand", *entity, "--alter", "--add-config", "max.message.bytes=12345,cleanup.policy=[compact,delete]")
    assert "max.message.bytes=12345" in tool("ConfigCommand", *entity, "--describe")
    tool("ConfigCommand", *entity, "--alter", "--delete-config", "max.message.bytes")
    assert "max.message.bytes" not in tool("ConfigCommand", *entity, "--describe")
    wrong = tool("ConfigCommand", *entity, "--alter", "--add-config", "no.such.setting=1", check=False)
    assert wrong.returncode != 0 and "no.such.setting" in wrong.stdout + wrong.stderr
    tool("TopicCommand", *at, "--delete", "--topic", topic)
    wait_until(lambda: topic not in tool("TopicCommand", *at, "--list").split())


def test_console_and_offsets(bootstrap, make_topic, tmp_path):
    topic = make_topic(partitions=4)
    at = ("--bootstrap-server", bootstrap)
    tool("ConsoleProducer", *at, "--topic", topic, "--reader-property", "parse.key=true", "--reader-property", "key.separator=:",
         stdin="".join(f"key{i}:value {i}\n" for i in range(30)))
    read = tool("ConsoleConsumer", *at, "--topic", topic, "--from-beginning", "--max-messages", 30,
                "--formatter-property", "print.key=true", "--formatter-property", "key.separator=:")
    assert sorted(read.splitlines()) == sorted(f"key{i}:value {i}" for i in range(30))

    ends = dict(line.rsplit(":", 1) for line in tool("GetOffsetShell", *at, "--topic", topic).split())
    assert len(ends) == 4 and sum(map(int, ends.values())) == 30
    starts = tool("GetOffsetShell", *at, "--topic", topic, "--time", "earliest").split()
    assert all(line.endswith(":0") for line in starts)
    newest = tool("GetOffsetShell", *at, "--topic", topic, "--time", "max-timestamp").split()
    local = tool("GetOffsetShell", *at, "--topic", topic, "--time", "earliest-local").split()
    assert local == starts
    tool("GetOffsetShell", *at, "--topic", topic, "--time", "latest-tiered")
    assert sum(1 for line in newest if int(line.rsplit(":", 1)[1]) >= 0) >= 1

    fullest = max(ends, key=lambda name: int(ends[name]))
    partition = int(fullest.rsplit(":", 1)[1])
    plan = tmp_path / "delete.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": partition, "offset": 2}]}))
    assert "low_watermark: 2" in tool("DeleteRecordsCommand", *at, "--offset-json-file", plan)


def test_consumer_groups(bootstrap, make_topic):
    topic, group = make_topic(partitions=2), unique("tool-group")
    at = ("--bootstrap-server", bootstrap)
    tool("ConsoleProducer", *at, "--topic", topic, "--reader-property", "parse.key=true", "--reader-property", "key.separator=:",
         stdin="".join(f"{i}:{i}\n" for i in range(40)))
    tool("ConsoleConsumer", *at, "--topic", topic, "--group", group, "--from-beginning", "--max-messages", 40)
    assert group in tool("ConsumerGroupCommand", *at, "--list").split()
    described = tool("ConsumerGroupCommand", *at, "--describe", "--group", group, "--offsets")
    rows = [line.split() for line in described.splitlines() if topic in line]
    assert len(rows) == 2 and sum(int(r[3]) for r in rows) == 40 and all(r[5] == "0" for r in rows)
    assert re.search(r"Empty", tool("ConsumerGroupCommand", *at, "--describe", "--group", group, "--state"))
    dry = tool("ConsumerGroupCommand", *at, "--reset-offsets", "--group", group, "--topic", f"{topic}:0", "--to-offset", "3", "--dry-run")
    assert re.search(rf"{group}\s+{topic}\s+0\s+3", dry)
    tool("ConsumerGroupCommand", *at, "--reset-offsets", "--group", group, "--topic", topic, "--to-earliest", "--execute")
    described = tool("ConsumerGroupCommand", *at, "--describe", "--group", group, "--offsets")
    assert sum(int(line.split()[3]) for line in described.splitlines() if topic in line) == 0
    again = tool("ConsoleConsumer", *at, "--topic", topic, "--group", group, "--max-messages", 40)
    assert sorted(map(int, again.split())) == list(range(40))
    tool("ConsumerGroupCommand", *at, "--delete-offsets", "--group", group, "--topic", f"{topic}:1")
    described = tool("ConsumerGroupCommand", *at, "--describe", "--group", group, "--offsets")
    assert len([line for line in described.splitlines() if topic in line]) == 1
    tool("ConsumerGroupCommand", *at, "--delete", "--group", group)
    assert group not in tool("ConsumerGroupCommand", *at, "--list").split()


def test_perf_tools(bootstrap, make_topic):
    topic = make_topic(partitions=2)
    made = tool("ProducerPerformance", "--bootstrap-server", bootstrap, "--topic", topic, "--num-records", 50000, "--record-size", 200,
                "--throughput", -1, "--command-property", "acks=all", "--command-property", "compression.type=lz4")
    assert "50000 records sent" in made
    read = tool("ConsumerPerformance", "--bootstrap-server", bootstrap, "--topic", topic, "--num-records", 50000,
                "--timeout", 20000)
    columns = dict(zip(*([c.strip() for c in line.split(",")] for line in read.strip().splitlines()[-2:])))
    assert int(columns["data.consumed.in.nMsg"]) >= 50000


def test_what_the_broker_says_of_itself(bootstrap, make_topic):
    topic = make_topic()
    at = ("--bootstrap-server", bootstrap)
    versions = tool("BrokerApiVersionsCommand", *at)
    assert "Produce(0): 0 to 13" in versions
    for name in ("Fetch", "ListOffsets", "Metadata", "OffsetCommit", "JoinGroup", "CreateTopics", "OffsetForLeaderEpoch"):
        assert re.search(rf"\b{name}\(\d+\): \d+ to \d+", versions), name
    assert "UNSUPPORTED" not in re.search(r"DeleteRecords.*", versions).group()
    assert tool("ClusterTool", "cluster-id", *at).strip()
    dirs = json.loads(tool("LogDirsCommand", *at, "--describe", "--topic-list", topic).splitlines()[-1])
    partitions = [p["partition"] for b in dirs["brokers"] for d in b["logDirs"] for p in d["partitions"]]
    assert partitions == [f"{topic}-0"]


def test_the_quorum_is_described(bootstrap):
    at = ("--bootstrap-server", bootstrap)
    status = tool("MetadataQuorumCommand", *at, "describe", "--status")
    assert re.search(r"LeaderId:\s+\d+", status) and re.search(r"HighWatermark:\s+[1-9]", status), status
    voters = tool("MetadataQuorumCommand", *at, "describe", "--replication").splitlines()
    assert len(voters) == 2 and "Leader" in voters[1], voters


def test_verifiable_producer_and_consumer(bootstrap, make_topic):
    topic = make_topic(partitions=2)
    said = tool("VerifiableProducer", "--bootstrap-server", bootstrap, "--topic", topic, "--max-messages", 200, "--acks", "-1")
    assert json.loads(said.splitlines()[-1])["acked"] == 200
    read = tool("VerifiableConsumer", "--bootstrap-server", bootstrap, "--topic", topic, "--group-id", unique("verify"),
                "--max-messages", 200, "--reset-policy", "earliest")
    consumed = sum(json.loads(line)["count"] for line in read.splitlines() if "records_consumed" in line)
    assert consumed >= 200


def test_producers_are_described(bootstrap, worker, make_topic):
    topic = make_topic()
    worker("java-4.3").call("produce", bootstrap=bootstrap, topic=topic, idempotent=True,
                            records=[record(f"{i}".encode(), partition=0) for i in range(5)])
    said = tool("TransactionsCommand", "--bootstrap-server", bootstrap, "describe-producers", "--topic", topic, "--partition", 0)
    rows = [line.split() for line in said.strip().splitlines()[1:]]
    assert len(rows) == 1 and rows[0][3] == "4"


def test_replicas_are_reassigned(bootstrap, make_topic, tmp_path):
    topic = make_topic(partitions=2)
    at = ("--bootstrap-server", bootstrap)
    broker = json.loads(tool("LogDirsCommand", *at, "--describe").splitlines()[-1])["brokers"][0]["broker"]
    topics = tmp_path / "topics.json"
    topics.write_text(json.dumps({"version": 1, "topics": [{"topic": topic}]}))
    generated = tool("ReassignPartitionsCommand", *at, "--generate", "--topics-to-move-json-file", topics,
                     "--broker-list", broker)
    plan = tmp_path / "plan.json"
    plan.write_text(generated.strip().splitlines()[-1])
    assert {p["partition"] for p in json.loads(plan.read_text())["partitions"]} == {0, 1}
    file = ("--reassignment-json-file", plan)
    tool("ReassignPartitionsCommand", *at, "--execute", *file, "--throttle", 10_000_000)
    entity = (*at, "--entity-type", "brokers", "--entity-name", broker)
    assert "leader.replication.throttled.rate=10000000" in tool("ConfigCommand", *entity, "--describe")
    verified = tool("ReassignPartitionsCommand", *at, "--verify", *file)
    assert verified.count("is completed.") == 2, verified
    assert "throttled.rate" not in tool("ConfigCommand", *entity, "--describe")
    assert "No partition reassignments found" in tool("ReassignPartitionsCommand", *at, "--list")
    plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "replicas": [broker, 77]}]}))
    wrong = tool("ReassignPartitionsCommand", *at, "--execute", *file, check=False)
    assert "77" in wrong.stdout + wrong.stderr and "completed" not in wrong.stdout


def test_leaders_are_elected(bootstrap, make_topic):
    topic = make_topic()
    at = ("--bootstrap-server", bootstrap)
    one = ("--topic", topic, "--partition", 0)
    said = tool("LeaderElectionCommand", *at, "--election-type", "preferred", *one)
    assert f"Valid replica already elected for partitions {topic}-0" in said
    tool("LeaderElectionCommand", *at, "--election-type", "preferred", "--all-topic-partitions")
    unclean = tool("LeaderElectionCommand", *at, "--election-type", "unclean", *one)
    assert f"Valid replica already elected for partitions {topic}-0" in unclean
    wrong = tool("LeaderElectionCommand", *at, "--election-type", "preferred", "--topic", topic, "--partition", 9, check=False)
    assert wrong.returncode != 0


def test_features_are_described_and_unknown_levels_refused(bootstrap):
    at = ("--bootstrap-server", bootstrap)
    described = tool("FeatureCommand", *at, "describe")
    assert "SupportedMaxVersion" in described and "FinalizedVersionLevel" in described, described
    wrong = tool("FeatureCommand", *at, "upgrade", "--feature", "no.such.version=9", check=False)
    assert wrong.returncode != 0 and "no.such.version" in wrong.stdout + wrong.stderr
    dry = tool("FeatureCommand", *at, "downgrade", "--feature", "no.such.version=0", "--dry-run", check=False)
    assert "no.such.version" in dry.stdout + dry.stderr


def test_a_broker_that_is_there_or_unknown_is_not_unregistered(bootstrap):
    wrong = tool("ClusterTool", "unregister", "--bootstrap-server", bootstrap, "--id", 77, check=False)
    assert "77" in wrong.stdout + wrong.stderr
    assert "is no longer registered" not in wrong.stdout
