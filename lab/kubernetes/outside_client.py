"""A stock client (librdkafka) that comes from outside of the pods' network, for the cases of secure.py.

    outside_client.py round-trip TOPIC    writes a record and reads it back
    outside_client.py produce TOPIC       writes until its standard input ends, then says what became of it

The client's settings come as JSON in LAB_CLIENT.
"""

import json
import os
import sys
import threading
import time
import uuid

from confluent_kafka import Consumer, Producer

SETTINGS = json.loads(os.environ["LAB_CLIENT"])


def produce(topic):
    told = {"sent": 0, "acknowledged": 0, "failed": [], "disconnects": 0}

    def counted(statistics):
        told["disconnects"] = sum(broker["disconnects"] for broker in json.loads(statistics)["brokers"].values())

    producer = Producer({**SETTINGS, "acks": "all", "enable.idempotence": True, "message.timeout.ms": 120000,
                         "statistics.interval.ms": 1000, "stats_cb": counted})
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()

    def delivered(error, _):
        if error:
            told["failed"].append(str(error))
        else:
            told["acknowledged"] += 1

    while not over.is_set():
        producer.produce(topic, f"record-{told['sent']}".encode(), on_delivery=delivered)
        told["sent"] += 1
        producer.poll(0)
        time.sleep(0.02)
    producer.flush(120)
    print(json.dumps(told))


def round_trip(topic):
    value = uuid.uuid4().hex.encode()
    failed = []
    producer = Producer({**SETTINGS, "message.timeout.ms": 20000})
    producer.produce(topic, value, on_delivery=lambda error, _: failed.append(error) if error else None)
    if producer.flush(25) or failed:
        sys.exit(f"not written: {failed}")
    consumer = Consumer({**SETTINGS, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        got = consumer.poll(0.5)
        if got and not got.error() and got.value() == value:
            consumer.close()
            return
    sys.exit("written, and not read back")


{"produce": produce, "round-trip": round_trip}[sys.argv[1]](sys.argv[2])
