"""kill -9 under load, many times: no acknowledged record lost, duplicated or reordered.

One idempotent producer (acks=all) lives through all kills and numbers what it
sends to each partition. The broker is killed at random moments, some before it
is ready, and started again at once. At the end everything is read back.
"""

import argparse
import datetime
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from confluent_kafka import Producer

from labkit import admin
from labkit.broker import Broker
from labkit.paths import LAB, wait_until

TOPICS = {"plain": (3, {}), "rolled": (3, {"segment.bytes": "1048576", "segment.ms": "700"})}


class Load:
    """Numbered records to every partition, until told to stop; `acked` is {(topic, partition): {number: offset}}."""

    def __init__(self, bootstrap, per_second, chance):
        self.places = [(topic, p) for topic, (partitions, _) in TOPICS.items() for p in range(partitions)]
        self.acked = {place: {} for place in self.places}
        self.sent = {place: 0 for place in self.places}
        self.failed, self.count = [], 0
        self.per_second, self.chance = per_second, chance
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all",
                                  "linger.ms": 2, "message.timeout.ms": 120000, "log_level": 2,
                                  "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100,
                                  "retry.backoff.ms": 50, "retry.backoff.max.ms": 200})
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.feed, daemon=True)
        self.thread.start()

    def done(self, place, number):
        def told(error, message):
            if error:
                self.failed.append(f"{place} {number}: {error}")
            else:
                self.acked[place][number] = message.offset()
                self.count += 1
        return told

    def feed(self):
        start, all_sent = time.monotonic(), 0
        while not self.ending.is_set():
            due = int((time.monotonic() - start) * self.per_second)
            while all_sent < due:
                place = self.chance.choice(self.places)
                number = self.sent[place]
                try:
                    self.producer.produce(place[0], value(number), partition=place[1],
                                          on_delivery=self.done(place, number))
                except BufferError:
                    break
                self.sent[place] += 1
                all_sent += 1
            self.producer.poll(0.005)

    def stop(self):
        self.ending.set()
        self.thread.join(10)
        return self.producer.flush(60)


def value(number):
    """Of a length that varies, every byte known from the number."""
    return (f"{number}:" + chr(97 + number % 26) * (number * 37 % 400)).encode()


def judge(load, rows):
    """What is wrong with what was read, as sentences."""
    wrong = []
    for (topic, p), acked in load.acked.items():
        at, part = f"{topic}-{p}", rows[topic][p]
        numbers = [int(v.split(b":")[0]) for _, _, v in part]
        where = {}
        for (offset, _, text), number in zip(part, numbers):
            if number in where:
                wrong.append(f"{at}: record {number} is at {where[number]} and again at {offset}")
            if text != value(number):
                wrong.append(f"{at}: record {number} at {offset} was altered")
            where[number] = offset
        if numbers != sorted(numbers):
            wrong.append(f"{at}: records are out of order")
        if [o for o, _, _ in part] != list(range(len(part))):
            wrong.append(f"{at}: offsets do not follow each other")
        lost = [(n, o) for n, o in acked.items() if where.get(n) != o and (o >= 0 or n not in where)]
        if lost:
            wrong.append(f"{at}: {len(lost)} acknowledged records are not where they were acknowledged, first {lost[:3]}")
        unknown = [n for n in numbers if n >= load.sent[(topic, p)]]
        if unknown:
            wrong.append(f"{at}: {len(unknown)} records were never sent")
    return wrong


def main():
    options = argparse.ArgumentParser(prog="lab/killloop/run", description=__doc__.split("\n")[0])
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--per-second", type=int, default=3000, help="records sent")
    options.add_argument("--record", action="store_true", help="adds the outcome to lab/results/DATE-killloop.md")
    options = options.parse_args()
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    chance = random.Random(seed)
    print(f"killloop: {options.kills} kills, seed {seed}", flush=True)
    work = Path(tempfile.mkdtemp(prefix="tidemark-killloop-"))
    os.environ["LAB_RUN_DIR"] = str(work)
    began = time.monotonic()
    broker = Broker(name="killed").start()
    for name, (partitions, config) in TOPICS.items():
        admin.create(broker.bootstrap, name, partitions, config)
    load = Load(broker.bootstrap, options.per_second, random.Random(seed + 1))
    starts, answers, wrong, early = [], [], [], 0
    try:
        for kill in range(1, options.kills + 1):
            # Most kills hit a broker that acknowledges; some come while clients find their way back.
            if chance.random() < 0.8:
                before, from_s = load.count, time.monotonic()
                wait_until(lambda: load.count > before, 30, "an acknowledgement after a start", every=0.005)
                answers.append(time.monotonic() - from_s)
            time.sleep(chance.uniform(0.05, 1.1))  # the moment of the kill is the point
            if not broker.alive():
                raise AssertionError(f"the broker ended by itself:\n{broker.log_tail()}")
            broker.kill()
            if chance.random() < 0.1:
                # Once more, before it is ready.
                early += 1
                killer = threading.Timer(chance.uniform(0, 0.1), lambda: broker.kill())
                killer.start()
                try:
                    broker.start()
                except AssertionError:
                    pass
                killer.join()
                broker.kill()
            from_s = time.monotonic()
            broker.start()
            starts.append(time.monotonic() - from_s)
            if kill % 20 == 0:
                print(f"  {kill} kills, {load.count} records acknowledged, last start {starts[-1] * 1000:.0f} ms", flush=True)
        left = load.stop()
        if left:
            wrong.append(f"{left} records are neither acknowledged nor refused 60 s after the last start")
        wrong += load.failed[:3]
        rows = {topic: admin.read_all(broker.bootstrap, topic, partitions, seconds=60)
                for topic, (partitions, _) in TOPICS.items()}
        wrong += judge(load, rows)
        read = sum(len(part) for topic in rows.values() for part in topic.values())
    except AssertionError as error:
        wrong.append(str(error))
        read = 0
    finally:
        load.ending.set()
        broker.kill()
    ms, answers = ([s * 1000 for s in times] or [0] for times in (starts, answers))
    line = (f"{len(starts)} kills under load and {early} before the broker was ready, seed {seed}: "
            f"{load.count} records acknowledged, {read} read back; start {statistics.median(ms):.0f} ms (median) "
            f"{max(ms):.0f} ms (max), then {statistics.median(answers):.0f} ms (median) {max(answers):.0f} ms (max) to the "
            f"first acknowledgement; {time.monotonic() - began:.0f} s: "
            + ("no acknowledged record lost, duplicated or reordered" if not wrong else "FAILED"))
    for one in wrong[:10]:
        print(f"  {one}")
    print(f"killloop: {line}")
    if options.record:
        record(line, wrong)
    if wrong:
        print(f"killloop: kept {work}")
        sys.exit(1)
    shutil.rmtree(work, ignore_errors=True)


def record(line, wrong):
    path = LAB / "results" / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-killloop.md"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_text(f"# kill -9 under load\n\n{platform.system()} {platform.release()}, {os.cpu_count()} processors, "
                        "librdkafka's idempotent producer with acks=all\n\n")
    with path.open("a") as out:
        out.write(f"- {line}\n" + "".join(f"  - {one}\n" for one in wrong[:10]))


if __name__ == "__main__":
    main()
