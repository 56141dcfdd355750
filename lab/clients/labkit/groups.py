"""Watching the members of a group, feeding their topic, and judging what they saw."""

import threading
import time

from confluent_kafka import Producer

from .paths import unique, wait_until

SESSION_MS = 1500


class Feeder:
    """Writes numbered records, spread over the partitions, until told to stop.

    `acked` holds {(partition, offset): text} of everything acknowledged.
    """

    def __init__(self, bootstrap, topic, partitions, per_second=300, settings=None):
        self.topic, self.partitions, self.per_second = topic, partitions, per_second
        self.acked, self.failed = {}, []
        self.sent = 0
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5,
                                  "message.timeout.ms": 60000, "log_level": 2, "reconnect.backoff.max.ms": 200,
                                  **(settings or {})})
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._feed, daemon=True)
        self.thread.start()

    def _done(self, text):
        def done(error, message):
            if error:
                self.failed.append(error)
            else:
                self.acked[(message.partition(), message.offset())] = text
        return done

    def _feed(self):
        start = time.monotonic()
        while not self.ending.is_set():
            due = int((time.monotonic() - start) * self.per_second)
            while self.sent < due:
                partition, text = self.sent % self.partitions, str(self.sent)
                try:
                    self.producer.produce(self.topic, text.encode(), partition=partition, on_delivery=self._done(text))
                except BufferError:
                    break
                self.sent += 1
            self.producer.poll(0.01)

    def stop(self, seconds=60):
        self.ending.set()
        self.thread.join(10)
        left = self.producer.flush(seconds)
        assert left == 0, f"{left} records were not acknowledged within {seconds} s"
        assert not self.failed, f"{len(self.failed)} records failed, the first with {self.failed[0]}"
        return self.acked


class Group:
    """Members of one group, in any workers, and all that they told."""

    def __init__(self, bootstrap, topics, group=None):
        self.bootstrap, self.topics = bootstrap, topics
        self.name = group or unique("group")
        self.lock = threading.Lock()
        self.members = {}
        self.history = []  # (time, member, event)

    def join(self, worker, assignor, member=None, session_ms=SESSION_MS, **more):
        member = member or unique("m")
        with self.lock:
            self.members[member] = {"worker": worker, "assigned": None, "errors": [], "gone": False, "rows": 0}
        with worker.lock:
            worker.members[member] = self._told
        worker.call("member_start", member=member, bootstrap=self.bootstrap, group=self.name, topics=self.topics,
                    assignor=assignor, session_timeout_ms=session_ms, **more)
        return member

    def _told(self, event):
        with self.lock:
            state = self.members[event["member"]]
            self.history.append((time.monotonic(), event["member"], event))
            if event["ev"] == "assigned":
                # An eager member that gave up all it had is between two assignments.
                between = event.get("revoked") and not event["partitions"]
                state["assigned"] = None if between else [tuple(p) for p in event["partitions"]]
            elif event["ev"] == "records":
                state["rows"] += len(event["records"])
            elif event["ev"] == "left":
                state["gone"] = True
            elif event["ev"] == "error":
                state["errors"].append(event["error"])

    def leave(self, member):
        self.members[member]["worker"].call("member_stop", member=member)
        self.members[member]["gone"] = True

    def forget(self, member):
        """Its process was killed."""
        self.members[member]["gone"] = True

    def assignment(self):
        with self.lock:
            return {m: s["assigned"] for m, s in self.members.items() if not s["gone"]}

    def errors(self):
        with self.lock:
            return {m: s["errors"] for m, s in self.members.items() if s["errors"] and not s["gone"]}

    def settled(self, partitions, sizes=None, seconds=30):
        """Waits until the living members share the partitions, each once, in the given sizes."""

        def shared():
            assert not self.errors(), self.errors()
            now = self.assignment()
            if any(a is None for a in now.values()):
                return None
            flat = sorted(p for a in now.values() for p in a)
            if flat != sorted(partitions):
                return None
            if sizes and sorted(map(len, now.values())) != sorted(sizes):
                return None
            return now

        try:
            return wait_until(shared, seconds, "the group being settled")
        except AssertionError as error:
            raise AssertionError(f"{error}; last: {self.assignment()}") from None

    def rows(self, member=None):
        """What was read: (member, topic, partition, offset, text) in order of telling."""
        with self.lock:
            return [(m, *row) for _, m, e in self.history if e["ev"] == "records" and member in (None, m)
                    for row in e["records"]]

    def caught_up(self, acked, seconds=30):
        """Waits until every acknowledged record was read by some member."""

        def all_read():
            seen = {(p, o) for _, _, p, o, _ in self.rows()}
            missing = len(acked.keys() - seen)
            return missing == 0

        wait_until(all_read, seconds, "every acknowledged record being read")

    def check(self, acked, once=False):
        """No record lost, altered or out of order within its partition."""
        read = {}
        for _, _, p, o, text in self.rows():
            assert acked.get((p, o)) == text, f"partition {p} offset {o} was read as {text!r}, written as {acked.get((p, o))!r}"
            read[(p, o)] = read.get((p, o), 0) + 1
        missing = sorted(acked.keys() - read.keys())
        assert not missing, f"{len(missing)} acknowledged records were not read, the first {missing[:5]}"
        if once:
            twice = [at for at, n in read.items() if n > 1]
            assert not twice, f"{len(twice)} records were read twice, the first {twice[:5]}"
        following = {}  # (member, partition) -> the offset that comes next, while it keeps the partition
        with self.lock:
            history = list(self.history)
        for _, member, event in history:
            if event["ev"] == "assigned":
                kept = {p for _, p in event["partitions"]}
                # An eager member gets its partitions anew and starts from what is committed.
                for at in [at for at in following if at[0] == member and (at[1] not in kept or not once)]:
                    del following[at]
            elif event["ev"] == "records":
                for _, p, o, _ in event["records"]:
                    expected = following.get((member, p), o)
                    assert o == expected, f"{member} read offset {o} of partition {p} where {expected} follows"
                    following[(member, p)] = o + 1

    def end(self):
        for member, state in list(self.members.items()):
            if not state["gone"] and state["worker"].alive():
                self.leave(member)
