"""`tidemark dev -f`: what a file of resources names is there for Kafka's clients, and so are its edits."""

import pytest
from confluent_kafka import Consumer, Producer

from labkit import admin
from labkit.broker import Broker
from labkit.paths import wait_until

pytestmark = pytest.mark.ours

FILE = """
apiVersion: tidemark.dev/v1alpha1
kind: Cluster
metadata: {name: orders}
spec:
  quorum: {voters: 1}
  pools: [{name: brokers, replicas: 1, storage: {size: 1Gi}}]
---
apiVersion: tidemark.dev/v1alpha1
kind: Topic
metadata: {name: purchases}
spec: {clusterRef: {name: orders}, partitions: 3, retention: 7d}
"""


def test_clients_find_what_the_file_names_and_what_is_added_to_it(tmp_path):
    file = tmp_path / "orders.yaml"
    file.write_text(FILE)
    with Broker(name="dev-file", arguments=["-f", str(file)]) as broker:
        def partitions():
            return len(admin.client(broker.bootstrap).list_topics(timeout=10).topics["purchases"].partitions)

        assert partitions() == 3
        producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all"})
        for n in range(300):
            producer.produce("purchases", key=str(n), value=f"purchase {n}")
        assert producer.flush(30) == 0

        # What was there stays where it is.
        file.write_text(FILE.replace("partitions: 3", "partitions: 5"))
        wait_until(lambda: partitions() == 5)
        consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "shipping", "auto.offset.reset": "earliest"})
        consumer.subscribe(["purchases"])
        values = set()

        def read_all():
            message = consumer.poll(0.5)
            if message is not None and not message.error():
                values.add(message.value().decode())
            return len(values) == 300
        wait_until(read_all, 60)
        consumer.close()
        assert values == {f"purchase {n}" for n in range(300)}
