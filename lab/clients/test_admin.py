"""Administration through confluent's AdminClient."""

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import (AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec,
                                   ResourceType)

from labkit import admin
from labkit.paths import unique, wait_until
from labkit.workers import record


def settings(bootstrap, topic):
    resource = ConfigResource(ResourceType.TOPIC, topic)
    return admin.client(bootstrap).describe_configs([resource])[resource].result(15)


def alter(bootstrap, topic, *entries):
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[
        ConfigEntry(name, value, incremental_operation=op) for name, op, value in entries])
    return admin.client(bootstrap).incremental_alter_configs([resource])[resource].result(15)


def refused(future, code):
    with pytest.raises(KafkaException) as error:
        future.result(15)
    assert error.value.args[0].name() == code, error.value
    return error.value.args[0].str()


def test_topics_come_and_go(bootstrap):
    client = admin.client(bootstrap)
    name = unique()
    admin.create(bootstrap, name, 3)
    assert len(client.list_topics(timeout=10).topics[name].partitions) == 3
    refused(client.create_topics([NewTopic(name, 1, 1)])[name], "TOPIC_ALREADY_EXISTS")
    client.create_partitions([NewPartitions(name, 5)])[name].result(15)
    wait_until(lambda: len(client.list_topics(name, timeout=10).topics[name].partitions) == 5)
    refused(client.create_partitions([NewPartitions(name, 4)])[name], "INVALID_PARTITIONS")
    client.delete_topics([name])[name].result(15)
    wait_until(lambda: name not in client.list_topics(timeout=10).topics)
    refused(client.delete_topics([name])[name], "UNKNOWN_TOPIC_OR_PART")
    # A name that was used before is as good as new.
    admin.create(bootstrap, name, 1)
    assert admin.offset(bootstrap, name) == 0


@pytest.mark.parametrize("name,partitions,replicas,config,code", [
    ("bad name!", 1, 1, {}, "TOPIC_EXCEPTION"),
    ("..", 1, 1, {}, "TOPIC_EXCEPTION"),
    ("x" * 250, 1, 1, {}, "TOPIC_EXCEPTION"),
    ("none-at-all", 0, 1, {}, "INVALID_PARTITIONS"),
    ("too-many-copies", 1, 9, {}, "INVALID_REPLICATION_FACTOR"),
    ("unknown-setting", 1, 1, {"retention.mms": "1"}, "INVALID_CONFIG"),
    ("not-a-number", 1, 1, {"retention.ms": "soon"}, "INVALID_CONFIG"),
    ("out-of-bounds", 1, 1, {"segment.bytes": "3"}, "INVALID_CONFIG"),
    ("not-a-choice", 1, 1, {"cleanup.policy": "shred"}, "INVALID_CONFIG"),
])
def test_bad_topics_are_refused(bootstrap, name, partitions, replicas, config, code):
    client = admin.client(bootstrap)
    name = name if code == "TOPIC_EXCEPTION" else unique(name)
    refused(client.create_topics([NewTopic(name, partitions, replicas, config=config)])[name], code)
    assert name not in client.list_topics(timeout=10).topics


def test_validate_only_changes_nothing(bootstrap):
    client = admin.client(bootstrap)
    name = unique()
    client.create_topics([NewTopic(name, 2, 1)], validate_only=True)[name].result(15)
    assert name not in client.list_topics(timeout=10).topics


def test_topic_settings(bootstrap, make_topic):
    topic = make_topic(config={"retention.ms": "7200000"})
    now = settings(bootstrap, topic)
    assert now["retention.ms"].value == "7200000" and not now["retention.ms"].is_default
    assert now["segment.bytes"].value == "1073741824" and now["segment.bytes"].is_default
    assert now["cleanup.policy"].value == "delete"
    alter(bootstrap, topic, ("retention.ms", AlterConfigOpType.SET, "3600000"),
          ("max.message.bytes", AlterConfigOpType.SET, "5000"),
          ("cleanup.policy", AlterConfigOpType.APPEND, "compact"))
    wait_until(lambda: settings(bootstrap, topic)["max.message.bytes"].value == "5000")
    now = settings(bootstrap, topic)
    assert now["retention.ms"].value == "3600000"
    assert sorted(now["cleanup.policy"].value.split(",")) == ["compact", "delete"]
    alter(bootstrap, topic, ("max.message.bytes", AlterConfigOpType.DELETE, None),
          ("cleanup.policy", AlterConfigOpType.SUBTRACT, "compact"))
    wait_until(lambda: settings(bootstrap, topic)["max.message.bytes"].value == "1048588")
    assert settings(bootstrap, topic)["cleanup.policy"].value == "delete"
    for name, value in (("retention.mms", "1"), ("retention.ms", "soon"), ("segment.bytes", "3")):
        with pytest.raises(KafkaException, match="INVALID_CONFIG"):
            alter(bootstrap, topic, (name, AlterConfigOpType.SET, value))
    assert settings(bootstrap, topic)["retention.ms"].value == "3600000"


def test_settings_of_an_unknown_topic(bootstrap):
    with pytest.raises(KafkaException, match="UNKNOWN_TOPIC_OR_PART"):
        settings(bootstrap, unique("missing"))


def test_broker_settings(bootstrap):
    cluster = admin.client(bootstrap).describe_cluster().result(15)
    assert len(cluster.nodes) == 1 and cluster.cluster_id
    resource = ConfigResource(ResourceType.BROKER, str(cluster.nodes[0].id))
    now = admin.client(bootstrap).describe_configs([resource])[resource].result(15)
    assert now["group.min.session.timeout.ms"].value == "500"
    assert now["num.partitions"].value == "1"


def test_delete_records(worker, bootstrap, make_topic):
    topic = make_topic()
    worker("confluent").call("produce", bootstrap=bootstrap, topic=topic,
                             records=[record(f"{i}".encode(), partition=0) for i in range(50)])
    client = admin.client(bootstrap)
    done = client.delete_records([TopicPartition(topic, 0, 20)])[TopicPartition(topic, 0)].result(15)
    assert done.low_watermark == 20
    assert admin.offset(bootstrap, topic, 0, OffsetSpec.earliest()) == 20
    assert [int(v) for _, _, v in admin.read_all(bootstrap, topic, expect=30)[0]] == list(range(20, 50))
    refused(client.delete_records([TopicPartition(topic, 0, 51)])[TopicPartition(topic, 0)], "OFFSET_OUT_OF_RANGE")
    client.delete_records([TopicPartition(topic, 0, -1)])[TopicPartition(topic, 0)].result(15)
    assert admin.offset(bootstrap, topic, 0, OffsetSpec.earliest()) == 50 == admin.offset(bootstrap, topic)
    worker("java-2.1").call("produce", bootstrap=bootstrap, topic=topic, records=[record(b"goes on", partition=0)])
    assert admin.read_all(bootstrap, topic, expect=1)[0][0][0] == 50


def test_retention_by_size_and_time(worker, bootstrap, make_topic):
    """Old segments go, the newest stays, and reading goes on from what is left."""
    topic = make_topic(config={"segment.bytes": "1048576", "retention.bytes": "1048576", "file.delete.delay.ms": "0"})
    blob = bytes(100_000)
    for _ in range(4):
        worker("confluent").call("produce", bootstrap=bootstrap, topic=topic, records=[record(blob, partition=0) for _ in range(10)])
    low = wait_until(lambda: admin.offset(bootstrap, topic, 0, OffsetSpec.earliest()), 30, "old segments being deleted")
    rows = admin.read_all(bootstrap, topic)[0]
    assert rows[0][0] >= low and rows[-1][0] == 39
    alter(bootstrap, topic, ("retention.ms", AlterConfigOpType.SET, "1"))
    wait_until(lambda: admin.offset(bootstrap, topic, 0, OffsetSpec.earliest()) == 40, 30, "everything being too old")
    assert admin.offset(bootstrap, topic) == 40


def test_kafkajs_and_python_admins(bootstrap, make_topic):
    """The admin clients of others list and describe what is there."""
    from kafka import KafkaAdminClient

    topic = make_topic(partitions=2)
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        assert topic in client.list_topics()
        assert len(client.describe_topics([topic])[0]["partitions"]) == 2
        client.delete_topics([topic])
        wait_until(lambda: topic not in client.list_topics())
    finally:
        client.close()
