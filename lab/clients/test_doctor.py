"""`tidemark doctor` and `doctor --cluster` where what they look for is there: three brokers of which one has a clock that is
off, one a certificate that ends soon, one a disk that fills up. Kubernetes is played by a script that knows where they are."""

import json
import os
import re
import subprocess
import threading

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from labkit import clock
from labkit.broker import tidemark
from labkit.paths import TIDEMARK, free_port, wait_until

pytestmark = pytest.mark.ours

IDS = (1, 2, 3)
# What each of them is for: who cannot be told by its clock, whose certificate ends, whose disk fills up.
ENDS, SKEWED, SMALL = IDS

KUBECTL = """#!/usr/bin/env python3
import json, os, re, subprocess, sys, urllib.request
words, http = " ".join(sys.argv[1:]), {http}
raw = re.search(r"pods/orders-(\\d)-0:8080/proxy/(\\S+)", words)
if raw:
    print(urllib.request.urlopen(f"http://127.0.0.1:{{http[int(raw[1])]}}/{{raw[2]}}", timeout=5).read().decode())
elif "exec" in words:
    inside = subprocess.run([{tidemark!r}, *sys.argv[sys.argv.index("tidemark") + 1:]], env={{**os.environ, "TIDEMARK_BOOTSTRAP": {bootstrap!r}}})
    sys.exit(inside.returncode)
elif "cluster.tidemark.dev orders" in words:
    print(json.dumps({cluster}))
else:
    print(json.dumps({{"apiVersion": "v1", "kind": "List", "items": []}}))
"""


class Three:
    def __init__(self, folder):
        self.folder, self.processes = folder, {}
        self.ports = {(n, what): free_port() for n in IDS for what in ("client", "tls", "quorum", "http")}
        self.bootstrap = ",".join(f"127.0.0.1:{self.ports[n, 'client']}" for n in IDS)
        voters = [(n, f"127.0.0.1:{self.ports[n, 'quorum']}") for n in IDS]
        for n in IDS:
            self.disk(n).mkdir()
            self.certificate(n)
            config = {
                "node.id": n, "log.dirs": str(self.disk(n) / "logs"), "http.listen": f"127.0.0.1:{self.ports[n, 'http']}",
                "listeners": f"PLAINTEXT://127.0.0.1:{self.ports[n, 'client']},SSL://127.0.0.1:{self.ports[n, 'tls']},"
                             f"CONTROLLER://{dict(voters)[n]}",
                "inter.broker.listener.name": "PLAINTEXT", "controller.listener.names": "CONTROLLER",
                "controller.quorum.bootstrap.servers": ",".join(at for _, at in voters),
                "ssl.keystore.type": "PEM", "ssl.keystore.location": str(folder / f"{n}.pem"),
                "default.replication.factor": 3, "offsets.topic.num.partitions": 3, "auto.leader.rebalance.enable": False,
                "broker.session.timeout.ms": 3000, "broker.heartbeat.interval.ms": 500, "replica.lag.time.max.ms": 3000,
                "wal.file.bytes": 1 << 20, "wal.max.bytes": 4 << 20, "wal.memory.bytes": 8 << 20,
            }
            (folder / f"{n}.yaml").write_text(json.dumps({"config": config}))
        if os.geteuid() == 0:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", self.disk(SMALL)], check=True)
        ids = {n: tidemark("format", "--random-uuid").strip() for n in IDS}
        of_all = ",".join(f"{n}@{at}:{ids[n]}" for n, at in voters)
        cluster = tidemark("format", "--random-uuid").strip()
        for n in IDS:
            tidemark("format", "--config", folder / f"{n}.yaml", "--cluster-id", cluster, "--initial-voters", of_all)

    def disk(self, n):
        return self.folder / f"disk-{n}"

    def certificate(self, n):
        made = subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                               "-days", "5" if n == ENDS else "400", "-subj", "/CN=lab", "-addext", "subjectAltName=IP:127.0.0.1",
                               "-addext", "basicConstraints=critical,CA:FALSE",
                               "-keyout", "/dev/stdout"], capture_output=True, check=True)
        (self.folder / f"{n}.pem").write_bytes(made.stdout)

    def start(self, n, env=None):
        log = self.folder / f"{n}.log"
        from_here = log.stat().st_size if log.exists() else 0
        with open(log, "ab") as out:
            self.processes[n] = subprocess.Popen([TIDEMARK, "broker", "--config", self.folder / f"{n}.yaml"], env=env,
                                                 stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        return lambda: re.search(rb"^ready ", log.read_bytes()[from_here:], re.MULTILINE)

    def kill(self, n):
        self.processes[n].kill()
        self.processes[n].wait(30)

    def kubectl(self):
        cluster = {
            "apiVersion": "tidemark.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {"pools": [{"name": "a", "replicas": 3, "storage": {"size": "10Gi"}}]},
            "status": {"ready": "3/3", "brokers": [{"id": n, "pool": "a", "state": "Ready", "stale": False} for n in IDS],
                       "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "message": "",
                                       "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}
        path = self.folder / "kubectl"
        path.write_text(KUBECTL.format(http={n: self.ports[n, "http"] for n in IDS}, tidemark=str(TIDEMARK),
                                       bootstrap=self.bootstrap, cluster=cluster))
        path.chmod(0o755)
        return path

    def end(self):
        for process in self.processes.values():
            process.kill()
            process.wait(30)
        if os.path.ismount(self.disk(SMALL)):
            subprocess.run(["umount", "-l", self.disk(SMALL)], check=True)


@pytest.fixture
def three(tmp_path):
    made = Three(tmp_path)
    try:
        for ready in [made.start(n) for n in IDS]:
            wait_until(ready, 60, "brokers being ready")
        yield made
    finally:
        made.end()


def findings(said):
    report = json.loads(said)
    found = [(check["name"], one["what"], one["next"]) for check in report["checks"] for one in check["findings"]]
    assert report["findings"] == len(found) and all(next_ for _, _, next_ in found)
    return found


def has(found, check, what, next_=""):
    assert any(check == name and re.search(what, told) and next_ in then for name, told, then in found), \
        f"no {check}: {what} ({next_}) among {json.dumps(found, indent=1)}"


def test_what_is_wrong_is_found(three):
    admin = AdminClient({"bootstrap.servers": three.bootstrap, "log_level": 0})

    def create(topic, assignment, config=None):
        new = NewTopic(topic, num_partitions=len(assignment), replica_assignment=assignment, config=config or {})
        admin.create_topics([new])[topic].result(20)

    # Led by one, who is restarted: leaders stay where they went. Its clock is off from then on.
    create("load", [[SKEWED, 1, 3]] * 12)
    create("strict", [[1, 2, 3]], {"min.insync.replicas": "3"})
    create("single", [[1]], {"min.insync.replicas": "1", "preallocate": "true"})
    three.kill(SKEWED)
    wait_until(lambda: all(p.leader != SKEWED for p in admin.list_topics("load", timeout=10).topics["load"].partitions.values()),
               30, "others leading")
    wait_until(three.start(SKEWED, clock.off(90, three.folder)), 60, "the broker being back")
    wait_until(lambda: all(len(p.isrs) == 3 for p in admin.list_topics("load", timeout=10).topics["load"].partitions.values()),
               60, "it being in sync")

    # A group with a member that commits nothing more, and more to read all the time.
    producer = Producer({"bootstrap.servers": three.bootstrap, "log_level": 0})
    over = threading.Event()

    def work():
        consumer = Consumer({"bootstrap.servers": three.bootstrap, "group.id": "sleepers", "auto.offset.reset": "earliest",
                             "enable.auto.commit": False, "log_level": 0})
        consumer.subscribe(["load"])
        message = wait_until(lambda: consumer.poll(0.5), 60, "a record")
        consumer.commit(message, asynchronous=False)
        committed.set()
        while not over.is_set():
            consumer.pause(consumer.assignment())
            consumer.poll(0.2)
        consumer.close()

    committed = threading.Event()
    for _ in range(200):
        producer.produce("load", b"x" * 100)
    assert producer.flush(30) == 0
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        assert committed.wait(90), "the group has committed nothing"
        if os.path.ismount(three.disk(SMALL)):
            free = os.statvfs(three.disk(SMALL))
            (three.disk(SMALL) / "filler").write_bytes(b"x" * (free.f_bavail * free.f_frsize - (24 << 20)))
        kubectl = three.kubectl()
        done = subprocess.run([TIDEMARK, "doctor", "--cluster", "orders", "-n", "shop", "-o", "json"], capture_output=True, text=True,
                              env={**os.environ, "KUBECTL": str(kubectl)}, timeout=120)
        assert done.returncode == 1, done.stdout + done.stderr
        found = findings(done.stdout)
        has(found, "certificates", rf"of broker {ENDS} for SSL ends in (4d|5d)")
        has(found, "brokers' clocks", rf"clock of broker {SKEWED} is 1m\d+s ahead")
        has(found, "replicas", "1 topic with one replica: single", "kube -n shop run orders -- ")
        has(found, "leaders", "1[0-9] partitions not led by their first replica", "cluster elect --preferred")
        has(found, "groups", "group sleepers has 1 member, .* committed nothing", "group describe sleepers --members")
        has(found, "settings", "topic single sets preallocate=true", "--unset preallocate")
        if os.path.ismount(three.disk(SMALL)):
            has(found, "claims", rf"broker {SMALL} has [\d.]+ MiB left, \d% of its disk", '"value":"20Gi"')
            has(found, "disks", rf"broker {SMALL} in .* left")
        assert not any(name in ("quorum", "metrics") for name, _, _ in found), found

        # The same goes into a bundle for whoever is asked for help.
        to = three.folder / "bundle"
        subprocess.run([TIDEMARK, "kube", "-n", "shop", "gather", "orders", "--to", to], check=True, capture_output=True,
                       env={**os.environ, "KUBECTL": str(kubectl)}, timeout=120)
        assert "tidemark_clock_timestamp_seconds" in (to / f"orders-{SKEWED}-0.metrics").read_text()
        assert "tidemark_partition_high_watermark" in (to / f"orders-{SMALL}-0.metrics-partitions").read_text()
        assert json.loads((to / f"orders-{ENDS}-0.state").read_text())["identity"]["brokerId"] == ENDS
        assert "group sleepers has 1 member" in (to / "doctor.txt").read_text()
    finally:
        over.set()
        worker.join(30)

    # Who shows what, asked over TLS.
    trusted = three.folder / "client.properties"
    pem = "".join((three.folder / f"{n}.pem").read_text() for n in IDS)
    (three.folder / "ca.pem").write_text("\n".join(re.findall(r"-----BEGIN CERT.*?END CERTIFICATE-----", pem, re.DOTALL)) + "\n")
    trusted.write_text(f"security.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.location={three.folder / 'ca.pem'}\n")
    over_tls = ",".join(f"127.0.0.1:{three.ports[n, 'tls']}" for n in IDS)
    done = tidemark("-b", over_tls, "--command-config", trusted, "-o", "json", "doctor", check=False)
    has(findings(done.stdout), "certificates", rf"of broker {ENDS} ends in (4d|5d)", "ssl.keystore.location")

    # One is gone for good.
    three.kill(SMALL)

    # The controller may have been that one: what a doctor was told before the next one was there is older.
    def told():
        found = findings(tidemark("-b", three.bootstrap, "-o", "json", "doctor", check=False).stdout)
        says = [what for _, what, _ in found]
        missed = any(what.startswith("voter ") for what in says)
        return [found] if missed and any("under min.insync" in what for what in says) else []

    found = wait_until(told, 90, "the voter being missed", every=1)[0]
    has(found, "quorum", rf"voter {SMALL} has not (had all metadata for|been seen to have)", "cluster quorum describe")
    has(found, "replicas", "1 partition under min.insync.replicas: strict-0", "topic describe strict")
    has(found, "replicas", "under-replicated")
    has(found, "bootstrap", f"127.0.0.1:{three.ports[SMALL, 'client']} does not answer")


def test_lag_and_growth_can_be_drawn(own_broker, tmp_path):
    bucket = tmp_path / "bucket"
    broker = own_broker(settings={"tier.url": f"file://{bucket}", "tier.upload.max.lag.ms": "500"})
    at = ("-b", broker.bootstrap)
    tidemark(*at, "topic", "create", "t", "-p", 1, "--set", "remote.storage.enable=true", "--set", "segment.bytes=1048576")
    lines = "".join(f"{n}\n" for n in range(1000))
    tidemark(*at, "produce", "t", stdin=lines)
    tidemark(*at, "consume", "t", "--group", "g", "-n", 400)
    drawn = tidemark(*at, "group", "lag", "g", "--every", "200ms", "--for", "1s").splitlines()
    assert len(drawn) >= 4 and all(re.match(r"\d\d:\d\d:\d\d +600  █+$", line) for line in drawn[:-1]), drawn
    assert drawn[-1] == "It is as far behind as it was.", drawn
    tidemark(*at, "consume", "t", "--group", "g")
    assert "It has caught up." in tidemark(*at, "group", "lag", "g", "--for", "300ms")
    assert tidemark(*at, "group", "lag", "nobody", check=False).returncode == 1

    def grown():
        said = tidemark("tier", "growth", f"file://{bucket}", check=False).stdout
        return said if "█" in said else None

    picture = wait_until(grown, 30, "records being in the bucket").splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d +[\d.]+ \w+  █", picture[-2]), picture
    points = json.loads(tidemark("-o", "json", "tier", "growth", f"file://{bucket}"))
    assert points[-1]["bytes"] > 0 and points == sorted(points, key=lambda one: (one["at_ms"], one["bytes"]))
