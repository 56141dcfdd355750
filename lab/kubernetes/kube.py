"""What the cases of e2e.py are written with: kubectl, conditions that are waited for, a producer."""

import json
import secrets
import subprocess
import threading
import time

from labkit.history import judge
from labkit.paths import PATIENCE

IMAGE = "registry.lab/tidemark"


class Failed(Exception):
    """A case's expectation that did not come true."""


def run(*command, text=None, check=True, timeout=120):
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout * PATIENCE, check=False)
    if check and done.returncode:
        raise Failed(f"{' '.join(command)[:200]}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def until(what, seconds, ask):
    """Asks until the answer is true, and gives it back. What fails meanwhile is asked again."""
    deadline, last = time.monotonic() + seconds * PATIENCE, None
    while time.monotonic() < deadline:
        try:
            last = ask()
            if last:
                return last
        except (Failed, KeyError, IndexError, TypeError) as error:
            last = error
        time.sleep(0.5)
    raise Failed(f"not within {seconds * PATIENCE:.0f} s: {what}; the last answer was {last!r}")


def expect(what, found, wanted):
    if found != wanted:
        raise Failed(f"{what}: {found!r} instead of {wanted!r}")


class Space:
    """A namespace with restricted pods, and a client in it."""

    def __init__(self, name):
        self.name = name
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def kubectl(self, *command, **more):
        return run("kubectl", "-n", self.name, *command, **more)

    def apply(self, *objects, **more):
        """Applies objects, or the text of a file."""
        text = "\n---\n".join(o if isinstance(o, str) else json.dumps(o) for o in objects)
        return self.kubectl("apply", "-f", "-", text=text, **more)

    def get(self, kind, name=None):
        found = json.loads(self.kubectl("get", kind, *([name] if name else []), "-o", "json").stdout)
        return found if name else found["items"]

    def patch(self, kind, name, patch, *more):
        return self.kubectl("patch", kind, name, "--type=merge", *more, "-p", json.dumps(patch))

    def condition(self, kind, name, type_):
        """Status and reason of a condition, of the newest spec."""
        found = self.get(kind, name)
        if found["status"]["observedGeneration"] != found["metadata"]["generation"]:
            return None
        return next((c["status"], c["reason"]) for c in found["status"]["conditions"] if c["type"] == type_)

    def is_(self, kind, name, type_, wanted, seconds=90):
        """Waits for a condition: its status, or its reason."""
        what = f"{kind} {name}: {type_} {wanted}"
        return until(what, seconds, lambda: wanted in (self.condition(kind, name, type_) or ()))

    def pods(self, cluster="orders"):
        """A cluster's pods by name: uid, template, ready."""
        pods = {}
        for pod in self.get("pods"):
            labels = pod["metadata"].get("labels", {})
            if labels.get("tidemark.dev/cluster") == cluster and "deletionTimestamp" not in pod["metadata"]:
                ready = any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
                pods[pod["metadata"]["name"]] = (pod["metadata"]["uid"], labels["tidemark.dev/template"], ready)
        return pods

    def client(self):
        """A pod that has the tidemark command."""
        restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        self.apply({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                # Nothing in the image sleeps; this one waits for records that do not come.
                "containers": [{
                    "name": "client", "image": f"{IMAGE}:1", "securityContext": restricted,
                    "command": ["tidemark", "dev", "--data", "/tmp/data"],
                }],
            },
        })
        self.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")

    def tidemark(self, cluster, *command, **more):
        """Runs a command in the client's pod."""
        bootstrap = f"{cluster}-bootstrap.{self.name}.svc:9092"
        return self.kubectl("exec", "-i", "client", "--", "tidemark", "-b", bootstrap, *command, **more)


class Traffic:
    """A producer with acks=all and a reader that are at work while something happens; then labkit's
    judge holds what was sent, acknowledged, read meanwhile and is there against each other: nothing
    lost, twice or out of order."""

    KEYS = 8

    def __init__(self, space, cluster, topic):
        self.space, self.cluster, self.topic = space, cluster, topic
        # Those of an earlier one in the same topic are none of ours.
        self.run = secrets.token_hex(3)
        self.events, self.stop = [], threading.Event()
        self.producer = self.start("produce", topic, "--key-separator", " ")
        self.reader = self.start("consume", topic, "--follow", "--template", "{partition} {offset} {key} {value}")
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.feed, self.read)]

    def start(self, *command):
        bootstrap = f"{self.cluster}-bootstrap.{self.space.name}.svc:9092"
        return subprocess.Popen(
            ["kubectl", "-n", self.space.name, "exec", "-i", "client", "--", "tidemark", "-b", bootstrap, *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)

    def sent(self):
        return [event for event in self.events if event[0] == "sent"]

    def feed(self):
        number = 0
        while not self.stop.is_set():
            key, n = f"{self.run}-{number % self.KEYS}", number // self.KEYS
            asked = time.monotonic()
            try:
                self.producer.stdin.write(f"{key} {n}\n")
                self.producer.stdin.flush()
            except (BrokenPipeError, ValueError):
                return
            self.events.append(["sent", asked, self.topic, key, n])
            number += 1
            time.sleep(0.02)

    def rows(self, lines):
        """Partition, offset, key and number of what this one sent."""
        words = (line.split() for line in lines)
        ours = (w for w in words if len(w) == 4 and w[2].startswith(f"{self.run}-"))
        return [(int(partition), int(offset), key, int(n)) for partition, offset, key, n in ours]

    def read(self):
        for line in self.reader.stdout:
            self.events += [["seen", time.monotonic(), self.topic, "reader", *row] for row in self.rows([line])]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        # What happens from here on happens under load.
        until("records are read", 60, lambda: self.reader.poll() is not None or any(event[0] == "seen" for event in list(self.events)))
        return self

    def __exit__(self, kind, *_):
        self.stop.set()
        self.threads[0].join()
        try:
            self.end(judged=kind is None)
        finally:
            self.reader.kill()
            self.reader.wait()
            # In its pod the reader ends when it can write no more.
            self.space.tidemark(self.cluster, "produce", self.topic, text="end\n", check=False)

    def end(self, judged):
        out, err = self.producer.communicate(timeout=180)
        if not judged:
            return
        if self.producer.returncode:
            raise Failed(f"the producer failed: {err.strip() or out.strip()}")
        # It ends well when all of it is acknowledged; where each went it does not say.
        acked = [["acked", time.monotonic(), *event[2:], -1, -1] for event in self.sent()]
        log = {}
        template = ("--template", "{partition} {offset} {key} {value}")
        for partition, *row in self.rows(self.space.tidemark(self.cluster, "consume", self.topic, *template).stdout.splitlines()):
            log.setdefault((self.topic, partition), []).append(tuple(row))
        seen = lambda: len({tuple(event[4:6]) for event in list(self.events) if event[0] == "seen"})
        # One that has ended will read no more.
        until("the reader has read everything", 60, lambda: self.reader.poll() is not None or seen() >= sum(map(len, log.values())))
        if self.reader.poll() is not None:
            raise Failed(f"the reader has ended: {self.reader.stderr.read().strip()}")
        wrong = judge(self.events + acked, log, [self.topic])
        if wrong:
            raise Failed("; ".join(wrong))
        print(f"         {len(acked)} records, each there once and in order, and read so", flush=True)


class Watch:
    """Looks at the brokers' pods while something happens: how many are not ready at once, in which order they go."""

    def __init__(self, space, kind="tmc", name="orders"):
        self.space, self.kind, self.name = space, kind, name
        self.most_down, self.order, self.unavailable = 0, [], []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self):
        first = self.space.pods()
        while not self.stop.is_set():
            try:
                pods = self.space.pods()
                ready = self.space.condition(self.kind, self.name, "Ready")
            except (Failed, KeyError, StopIteration):
                continue
            down = [name for name in first if name not in pods or not pods[name][2]]
            self.most_down = max(self.most_down, len(down))
            for name in first:
                if name not in self.order and (name not in pods or pods[name][0] != first[name][0]):
                    self.order.append(name)
            # None while the operator has not seen the newest spec.
            if ready is not None and ready[0] != "True":
                self.unavailable.append(ready[1])
            time.sleep(0.3)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
