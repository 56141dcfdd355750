"""Groups: joining, leaving, crashing, sharing out; broadcast and queue; static members."""


import pytest
from confluent_kafka import KafkaException, TopicPartition

from labkit import admin
from labkit.groups import Feeder, Group
from labkit.paths import unique, wait_until
from labkit.workers import CLIENTS_BY_NAME, record

CASES = [(c.name, a) for c in CLIENTS_BY_NAME.values() for a in c.assignors]


def parts(topic, count):
    return [(topic, p) for p in range(count)]


@pytest.mark.parametrize("name,assignor", CASES, ids=[f"{n}-{a}" for n, a in CASES])
def test_members_come_go_and_crash(worker, own_worker, make_topic, bootstrap, name, assignor):
    """One member, two, three; one killed with -9; one leaves: all is read, in order, all the while."""
    topic = make_topic(partitions=4)
    feeder = Feeder(bootstrap, topic, 4)
    group = Group(bootstrap, [topic])
    all_four = parts(topic, 4)
    victim = own_worker(name)
    first = group.join(worker(name), assignor)
    group.settled(all_four, [4])
    second = group.join(victim, assignor)
    group.settled(all_four, [2, 2])
    third = group.join(worker(name), assignor)
    group.settled(all_four, [1, 1, 2])
    victim.kill()
    group.forget(second)
    group.settled(all_four, [2, 2])
    group.leave(third)
    group.settled(all_four, [4])
    acked = feeder.stop()
    group.caught_up(acked)
    group.leave(first)
    group.check(acked)
    assert len(acked) > 300


def test_one_group_in_four_languages(worker, make_topic, bootstrap):
    """Clients of different makes share one group: range is a word that they have in common."""
    topic = make_topic(partitions=6)
    feeder = Feeder(bootstrap, topic, 6)
    group = Group(bootstrap, [topic])
    for name in ("confluent", "java-4.3", "java-2.1", "kafka-python", "aiokafka", "librdkafka-1.8"):
        group.join(worker(name), "range")
    group.settled(parts(topic, 6), [1] * 6)
    acked = feeder.stop()
    group.caught_up(acked)
    group.end()
    group.check(acked)


@pytest.mark.parametrize("name,assignor", [("confluent", "cooperative-sticky"), ("java-4.3", "sticky"), ("java-2.1", "range"),
                                           ("kafkajs", "roundrobin"), ("aiokafka", "roundrobin"), ("kafka-python", "range")])
def test_more_members_than_partitions(worker, make_topic, bootstrap, name, assignor):
    """The extra one idles, and takes over when another leaves."""
    topic = make_topic(partitions=2)
    group = Group(bootstrap, [topic])
    for _ in range(3):
        group.join(worker(name), assignor)
    now = group.settled(parts(topic, 2), [0, 1, 1])
    feeder = Feeder(bootstrap, topic, 2)
    wait_until(lambda: len(group.rows()) > 50)
    idle = next(m for m, a in now.items() if not a)
    assert not group.rows(idle)
    group.leave(next(m for m, a in now.items() if a))
    group.settled(parts(topic, 2), [1, 1])
    wait_until(lambda: group.rows(idle), what="the idle member reading")
    acked = feeder.stop()
    group.caught_up(acked)
    group.end()
    group.check(acked)


def test_broadcast_over_groups_and_queue_within_one(worker, make_topic, bootstrap):
    """Three groups, each of several members, each see every record; within a group each record goes to one member."""
    topic = make_topic(partitions=3)
    groups = []
    for name, assignor in (("java-4.3", "cooperative-sticky"), ("kafkajs", "roundrobin"), ("confluent", "roundrobin")):
        group = Group(bootstrap, [topic])
        for _ in range(3):
            group.join(worker(name), assignor)
        group.settled(parts(topic, 3), [1, 1, 1])
        groups.append(group)
    feeder = Feeder(bootstrap, topic, 3, per_second=600)
    wait_until(lambda: len(feeder.acked) > 900)
    acked = feeder.stop()
    for group in groups:
        group.caught_up(acked)
        group.end()
        group.check(acked, once=True)
        by_member = {m: {p for _, _, p, _, _ in group.rows(m)} for m in group.members}
        assert sorted(by_member.values(), key=min) == [{0}, {1}, {2}]


STATIC = [(c.name, c.assignors[0]) for c in CLIENTS_BY_NAME.values() if c.static and c.assignors]


@pytest.mark.parametrize("name,assignor", STATIC, ids=[n for n, _ in STATIC])
def test_static_member_comes_back_to_its_partitions(worker, own_worker, make_topic, bootstrap, name, assignor):
    """Killed and back within its session: nobody else hears of it."""
    topic = make_topic(partitions=4)
    group = Group(bootstrap, [topic])
    victim = own_worker(name)
    gone = group.join(victim, assignor, session_ms=12000, instance_id="static-a")
    stays = group.join(worker(name), assignor, session_ms=12000, instance_id="static-b")
    before = group.settled(parts(topic, 4), [2, 2])
    heard = sum(1 for _, m, e in group.history if m == stays and e["ev"] == "assigned")
    victim.kill()
    group.forget(gone)
    back = group.join(own_worker(name), assignor, session_ms=12000, instance_id="static-a")
    after = group.settled(parts(topic, 4), [2, 2], seconds=10)
    assert after[back] == before[gone] and after[stays] == before[stays]
    feeder = Feeder(bootstrap, topic, 4)
    wait_until(lambda: len(feeder.acked) > 200)
    acked = feeder.stop()
    group.caught_up(acked)
    assert heard == sum(1 for _, m, e in group.history if m == stays and e["ev"] == "assigned")
    group.end()
    group.check(acked)
    # A static member that leaves keeps its place until its session ends; the tools can remove it.


def test_second_of_the_same_instance_fences_the_first(own_worker, make_topic, bootstrap):
    topic = make_topic(partitions=2)
    group = Group(bootstrap, [topic])
    first = group.join(own_worker("confluent"), "range", instance_id="only-one")
    group.settled(parts(topic, 2), [2])
    second = group.join(own_worker("confluent"), "range", instance_id="only-one")
    fenced = wait_until(lambda: group.errors().get(first), what="the first member being fenced")
    assert "FENCED_INSTANCE_ID" in fenced[0] or "fenced" in fenced[0].lower()
    group.forget(first)
    wait_until(lambda: group.assignment()[second] == parts(topic, 2))


def test_assignors_that_do_not_meet_are_refused(worker, make_topic, bootstrap):
    topic = make_topic(partitions=2)
    group = Group(bootstrap, [topic])
    group.join(worker("java-4.3"), "range")
    group.settled(parts(topic, 2), [2])
    other = group.join(worker("java-4.3"), "roundrobin")
    refused = wait_until(lambda: group.errors().get(other), what="the other protocol being refused")
    assert "InconsistentGroupProtocol" in refused[0]
    group.forget(other)
    group.settled(parts(topic, 2), [2])
    group.end()


def test_a_group_starts_where_it_left_off(worker, make_topic, bootstrap):
    """Each language goes on from what another committed, and rebalances do not move it."""
    topic = make_topic(partitions=2)
    name = unique("group")
    seen = []
    for at, client in enumerate(["confluent", "java-2.1", "aiokafka", "kafka-python", "java-4.3", "librdkafka-1.8", "kafkajs"]):
        worker("confluent").call("produce", bootstrap=bootstrap, topic=topic, records=[
            record(f"{at}-{p}-{i}".encode(), partition=p) for p in (0, 1) for i in range(20)])
        group = Group(bootstrap, [topic], group=name)
        member = group.join(worker(client), "roundrobin" if client == "kafkajs" else "range")
        wait_until(lambda: len(group.rows()) >= 40, what=f"{client} reading its 40 records")
        group.leave(member)
        rows = group.rows()
        assert len(rows) == 40, f"{client} read {len(rows)} records where 40 were new"
        assert {text.split("-")[0] for *_, text in rows} == {str(at)}
        seen += rows
    assert len({(p, o) for _, _, p, o, _ in seen}) == 280


def test_rebalance_waits_for_work_in_hand(worker, own_worker, make_topic, bootstrap):
    """A member with a frozen process is put out after its session, and its work is read again by another."""
    import os
    import signal

    topic = make_topic(partitions=2)
    group = Group(bootstrap, [topic])
    frozen_worker = own_worker("confluent")
    frozen = group.join(frozen_worker, "range", commit=False)
    stays = group.join(worker("java-4.3"), "range")
    group.settled(parts(topic, 2), [1, 1])
    feeder = Feeder(bootstrap, topic, 2)
    wait_until(lambda: len(group.rows(frozen)) > 30)
    os.kill(frozen_worker.process.pid, signal.SIGSTOP)
    group.forget(frozen)
    group.settled(parts(topic, 2), [2])
    acked = feeder.stop()
    wait_until(lambda: {(p, o) for _, _, p, o, _ in group.rows(stays)} >= acked.keys(), what="the survivor reading all")
    os.kill(frozen_worker.process.pid, signal.SIGCONT)
    group.end()


def test_offsets_by_the_admin_client(worker, make_topic, bootstrap):
    """Commit with metadata, list, alter, and delete the group."""
    from confluent_kafka import Consumer, ConsumerGroupState, ConsumerGroupTopicPartitions

    topic = make_topic(partitions=2)
    worker("confluent").call("produce", bootstrap=bootstrap, topic=topic,
                             records=[record(b"x", partition=p) for p in (0, 1) for _ in range(10)])
    name = unique("group")
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": name, "enable.auto.commit": False})
    at = TopicPartition(topic, 0, 7, metadata="seen by the test")
    consumer.commit(offsets=[at, TopicPartition(topic, 1, 3)], asynchronous=False)
    committed = consumer.committed([TopicPartition(topic, 0), TopicPartition(topic, 1)], timeout=10)
    assert [c.offset for c in committed] == [7, 3]
    assert committed[0].metadata == "seen by the test"
    consumer.close()

    client = admin.client(bootstrap)
    listed = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name)])[name].result(15)
    assert sorted((t.partition, t.offset) for t in listed.topic_partitions) == [(0, 7), (1, 3)]
    client.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(name, [TopicPartition(topic, 0, 2)])])[name].result(15)
    listed = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name)])[name].result(15)
    assert sorted((t.partition, t.offset) for t in listed.topic_partitions) == [(0, 2), (1, 3)]

    groups = {g.group_id: g for g in client.list_consumer_groups().result(15).valid}
    assert groups[name].state == ConsumerGroupState.EMPTY
    described = client.describe_consumer_groups([name])[name].result(15)
    assert described.state == ConsumerGroupState.EMPTY and not described.members
    client.delete_consumer_groups([name])[name].result(15)
    assert name not in {g.group_id for g in client.list_consumer_groups().result(15).valid}
    with pytest.raises(KafkaException, match="GROUP_ID_NOT_FOUND"):
        client.delete_consumer_groups([name])[name].result(15)


def test_a_live_group_is_described_and_not_deleted(worker, make_topic, bootstrap):
    from confluent_kafka import ConsumerGroupState

    topic = make_topic(partitions=3)
    group = Group(bootstrap, [topic])
    group.join(worker("java-4.3"), "sticky")
    group.join(worker("java-4.3"), "sticky")
    group.settled(parts(topic, 3), [1, 2])
    client = admin.client(bootstrap)
    wait_until(lambda: client.describe_consumer_groups([group.name])[group.name].result(15).state == ConsumerGroupState.STABLE)
    described = client.describe_consumer_groups([group.name])[group.name].result(15)
    assert described.partition_assignor == "sticky" and len(described.members) == 2
    held = sorted((t.topic, t.partition) for m in described.members for t in m.assignment.topic_partitions)
    assert held == parts(topic, 3)
    with pytest.raises(KafkaException, match="NON_EMPTY_GROUP"):
        client.delete_consumer_groups([group.name])[group.name].result(15)
    group.end()
    wait_until(lambda: client.describe_consumer_groups([group.name])[group.name].result(15).state == ConsumerGroupState.EMPTY)
    client.delete_consumer_groups([group.name])[group.name].result(15)


def test_a_full_group_refuses_the_next(own_broker, worker):
    broker = own_broker({"group.max.size": "2"})
    topic = admin.create(broker.bootstrap, unique(), 4)
    group = Group(broker.bootstrap, [topic])
    for _ in range(2):
        group.join(worker("java-4.3"), "range")
    group.settled(parts(topic, 4), [2, 2])
    third = group.join(worker("java-4.3"), "range")
    refused = wait_until(lambda: group.errors().get(third), what="the third member being refused")
    assert "GroupMaxSizeReached" in refused[0]
    group.forget(third)
    group.settled(parts(topic, 4), [2, 2])
    group.end()


def test_new_partitions_reach_a_running_group(worker, make_topic, bootstrap):
    from confluent_kafka.admin import NewPartitions

    topic = make_topic(partitions=2)
    group = Group(bootstrap, [topic])
    group.join(worker("java-4.3"), "cooperative-sticky", props={"metadata.max.age.ms": 300})
    group.join(worker("confluent"), "cooperative-sticky", props={"topic.metadata.refresh.interval.ms": 300})
    group.settled(parts(topic, 2), [1, 1])
    admin.client(bootstrap).create_partitions([NewPartitions(topic, 4)])[topic].result(15)
    group.settled(parts(topic, 4), [2, 2])
    group.end()
