"""What the operator costs while nothing changes, on a real API server with the objects of many Clusters
and Topics. There are no nodes: this file says that pods are ready, answers for brokers' names, and has a
few real brokers stand in for those of all clusters, each with the topics of several.

The figures are of a process of TIDEMARK_BIN: CPU time and memory by /proc, requests by the API server's
own counters. OPERATOR at rest: under 0.1 core and 64 MiB, under one write a second.
"""

import argparse
import collections
import datetime
import http.client
import json
import os
import pathlib
import platform
import re
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
BIN = os.environ["TIDEMARK_BIN"]
SPACE, IMAGE = "fleet", "registry.lab/tidemark:1"
BROKERS = 20
OURS = "/apis/tidemark.dev/v1alpha1/namespaces/fleet"
WRITES = {"POST", "PUT", "PATCH", "APPLY", "DELETE"}


class Api:
    """The API server, over one connection."""

    def __init__(self, pki):
        self.context = ssl.create_default_context(cafile=f"{pki}/ca.crt")
        self.context.load_cert_chain(f"{pki}/admin.crt", f"{pki}/admin.key")
        self.connection = None

    def ask(self, method, path, body=None, kind="application/json"):
        for last in (False, True):
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPSConnection("127.0.0.1", 6443, context=self.context, timeout=60)
                self.connection.request(method, path, body and json.dumps(body), {"Content-Type": kind})
                answer = self.connection.getresponse()
                text = answer.read()
                break
            except (OSError, http.client.HTTPException):
                self.connection = None
                if last:
                    raise
        if answer.status >= 300:
            raise SystemExit(f"idle: {method} {path}: {answer.status} {text[:300]!r}")
        return text

    def get(self, path):
        return json.loads(self.ask("GET", path))

    def requests(self):
        """Requests so far, by verb and resource."""
        counts = collections.Counter()
        for line in self.ask("GET", "/metrics").decode().splitlines():
            found = re.match(r"apiserver_request_total\{(.*)\} (\S+)$", line)
            if found:
                labels = dict(re.findall(r'(\w+)="([^"]*)"', found[1]))
                counts[labels["verb"], labels["resource"]] += float(found[2])
        return counts


class Names(socketserver.BaseRequestHandler):
    """Answers for the name of each cluster's services with the address of the broker that stands in."""

    def handle(self):
        data, reply = self.request
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1:at + 1 + data[at]].decode())
            at += 1 + data[at]
        kind, question = struct.unpack(">H", data[at + 1:at + 3])[0], data[12:at + 5]
        cluster = re.match(r"idle-(\d+)-", labels[0])
        answer = b""
        if cluster and kind == 1:
            address = socket.inet_aton(address_of(int(cluster[1]) % BROKERS))
            answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 5, 4) + address
        code = 0x8180 if cluster else 0x8183
        reply.sendto(data[:2] + struct.pack(">HHHHH", code, 1, bool(answer), 0, 0) + question + answer, self.client_address)


def address_of(broker):
    return f"127.44.0.{broker + 1}"


def authority(work):
    """One authority for all clusters, and a certificate for whoever stands in: as Secret data, and as files."""
    names = ",".join(["DNS:*.fleet.svc", *(f"IP:{address_of(index)}" for index in range(BROKERS))])
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"]
    openssl = lambda *arguments: subprocess.run(["openssl", *arguments], cwd=work, check=True, capture_output=True)
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=fleet", "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,digitalSignature")
    openssl("req", "-x509", *new, "-CA", "ca.crt", "-CAkey", "ca.key", "-keyout", "broker.key", "-out", "broker.crt", "-subj", "/CN=broker",
            "-addext", "basicConstraints=critical,CA:FALSE", "-addext", f"subjectAltName={names}")
    (work / "broker.pem").write_text((work / "broker.crt").read_text() + (work / "broker.key").read_text())
    return {name: (work / name).read_text() for name in ("ca.crt", "ca.key")}


def start_broker(index, work):
    home, at = work / f"broker-{index}", address_of(index)
    home.mkdir()
    listeners = [f"CLIENT://{at}:9092", f"REPLICATION://{at}:9091", f"CONTROLLER://{at}:9090"]
    settings = {
        "node.id": 0, "process.roles": "broker,controller", "log.dirs": home / "data", "http.listen": f"{at}:8080",
        "listeners": ",".join(listeners), "advertised.listeners": ",".join(listeners),
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,REPLICATION:SSL,CONTROLLER:SSL",
        "ssl.keystore.type": "PEM", "ssl.keystore.location": work / "broker.pem",
        "ssl.truststore.type": "PEM", "ssl.truststore.location": work / "ca.crt", "inter.broker.listener.name": "REPLICATION", "controller.listener.names": "CONTROLLER",
        "controller.quorum.bootstrap.servers": f"{at}:9090", "wal.file.bytes": 1 << 20, "wal.max.bytes": 8 << 20,
        "default.replication.factor": 1, "min.insync.replicas": 1,
    }
    file = home / "broker.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    subprocess.run([BIN, "format", "--config", file, "--standalone"], check=True, capture_output=True)
    return subprocess.Popen([BIN, "broker", "--config", file], stdout=open(home / "log", "w"), stderr=subprocess.STDOUT)


class Operator:
    """The operator's process, which ends when it could not renew its Lease, and is started again then, as a Deployment does."""

    def __init__(self, work):
        self.log, self.restarts = pathlib.Path(work, "operator.log"), -1
        self.start()

    def start(self):
        self.restarts += 1
        # On a port of its own: brokers' is taken on some of the machine's addresses.
        self.process = subprocess.Popen([BIN, "operator", "--namespace", SPACE, "--image", IMAGE, "--name", f"idle-{self.restarts}",
                                         "--http-listen", "127.0.0.1:0"],
                                        stdout=open(self.log, "a"), stderr=subprocess.STDOUT)
        self.pid, self.send_signal, self.wait, self.poll = self.process.pid, self.process.send_signal, self.process.wait, self.process.poll

    def runs(self):
        if self.poll() is not None:
            print(f"idle: the operator ended: {self.log.read_text()[-300:]}", flush=True)
            self.start()
        return True


def until(what, seconds, ask):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left = ask()
        if not left:
            return
        print(f"idle: {what}: {left} to go", flush=True)
        time.sleep(5)
    raise SystemExit(f"idle: gave up on {what} after {seconds} s")


def without(api, kind, type_):
    """How many objects lack a condition."""
    items = api.get(f"{OURS}/{kind}")["items"]
    is_so = lambda item: any(c["type"] == type_ and c["status"] == "True" for c in item.get("status", {}).get("conditions", []))
    return sum(not is_so(item) for item in items)


def ready_pods(api):
    """Says of every pod what a kubelet would; how many there are."""
    pods = api.get(f"/api/v1/namespaces/{SPACE}/pods")["items"]
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for pod in pods:
        if pod["status"].get("phase") != "Running":
            status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}
            api.ask("PATCH", f"/api/v1/namespaces/{SPACE}/pods/{pod['metadata']['name']}/status", {"status": status}, "application/merge-patch+json")
    return len(pods)


def used(pid):
    """CPU seconds of a process, and its memory in MiB: resident, without what is pages of its file."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    anonymous = re.search(r"RssAnon:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())[1]
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"), int(anonymous) / 1024


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--pki", required=True)
    options.add_argument("--clusters", type=int, default=200)
    options.add_argument("--topics", type=int, default=5000)
    options.add_argument("--seconds", type=int, default=120)
    options.add_argument("--record", action="store_true", help="write the figures to lab/results")
    options = options.parse_args()
    api, processes = Api(options.pki), []
    work = tempfile.TemporaryDirectory(prefix="tidemark-idle-")
    try:
        names = socketserver.ThreadingUDPServer(("127.0.0.153", 53), Names)
        threading.Thread(target=names.serve_forever, daemon=True).start()
        signs = authority(pathlib.Path(work.name))
        processes += [start_broker(index, pathlib.Path(work.name)) for index in range(min(BROKERS, options.clusters))]
        for path in sorted((REPO / "crds/yaml").glob("*.yaml")):
            subprocess.run(["kubectl", "apply", "-f", path], check=True, capture_output=True)
        subprocess.run(["kubectl", "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"], check=True, capture_output=True)
        api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": SPACE}})
        pool = {"name": "brokers", "replicas": 1, "storage": {"size": "1Gi"}}
        spec = {"image": IMAGE, "quorum": {"voters": 1}, "pools": [pool]}
        head = lambda kind, name: {"apiVersion": "tidemark.dev/v1alpha1", "kind": kind, "metadata": {"name": name}}
        for index in range(options.clusters):
            metadata = {"name": f"idle-{index}-authority", "labels": {"tidemark.dev/cluster": f"idle-{index}"}}
            api.ask("POST", f"/api/v1/namespaces/{SPACE}/secrets", {"metadata": metadata, "stringData": signs})
            api.ask("POST", f"{OURS}/clusters", {**head("Cluster", f"idle-{index}"), "spec": spec})
        for index in range(options.topics):
            of = {"clusterRef": {"name": f"idle-{index % options.clusters}"}, "partitions": 1, "retention": "7d"}
            api.ask("POST", f"{OURS}/topics", {**head("Topic", f"topic-{index}"), "spec": of})
        operator = Operator(work.name)
        processes.append(operator)
        began = time.monotonic()
        until("pods", 900, lambda: operator.runs() and options.clusters - ready_pods(api))
        ready_pods(api)
        until("clusters", 900, lambda: operator.runs() and without(api, "clusters", "Reconciled"))
        until("topics", 1800, lambda: operator.runs() and without(api, "topics", "Synced"))
        settled, peak = time.monotonic() - began, used(operator.pid)[1]
        # It would go on telling that volumes wait for pods on nodes; from here on all that asks is the operator.
        os.kill(int(pathlib.Path(options.pki).parent.joinpath("pid/kube-controller-manager").read_text()), signal.SIGTERM)
        # What follows from the last change is over after the longest time between two looks.
        time.sleep(70)
        before, (cpu, _), from_ = api.requests(), used(operator.pid), time.monotonic()
        sizes = []
        while time.monotonic() < from_ + options.seconds:
            time.sleep(5)
            sizes.append(used(operator.pid)[1])
        seconds, after, cpu = time.monotonic() - from_, api.requests(), used(operator.pid)[0] - cpu
        if operator.poll() is not None:
            raise SystemExit(f"idle: the operator ended: {operator.log.read_text()[-2000:]}")
        tell(options, settled, peak, seconds, cpu, sizes, after - before)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGKILL)
            process.wait()
        work.cleanup()


def tell(options, settled, peak, seconds, cpu, sizes, requests):
    rate = lambda of: sum(count for (verb, _), count in requests.items() if of(verb)) * 60 / seconds
    writes = rate(lambda verb: verb in WRITES)
    rows = sorted(((count * 60 / seconds, verb, resource) for (verb, resource), count in requests.items() if count), reverse=True)
    debug = os.path.basename(os.path.dirname(BIN)) == "debug"
    lines = [
        f"# The operator at rest: {options.clusters} Clusters, {options.topics} Topics", "",
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores shared with other work, "
        f"`{os.path.basename(os.path.dirname(BIN))}/tidemark` of {os.path.getsize(BIN) / 2**20:.0f} MiB. Written by `lab/kubernetes/idle`; brokers are "
        f"{min(BROKERS, options.clusters)} real ones that stand in for those of all clusters.{' What is to be kept is meant of a release build.' if debug else ''}", "",
        "| | found | at most |", "|---|---|---|",
        f"| CPU, cores | {cpu / seconds:.3f} | 0.1 |",
        f"| memory, MiB, without the program's own pages | {max(sizes):.0f} (when all was made: {peak:.0f}) | 64 |",
        f"| writes to the API server, a minute | {writes:.0f} | 60 |", "",
        f"Over {seconds:.0f} s, after {settled:.0f} s in which all of it was made. Requests a minute at the API server, some of which are its own (leases without a namespace, endpoints):", "",
        "| verb | resource | a minute |", "|---|---|---|",
        *(f"| {verb} | {resource or '(none)'} | {count:.1f} |" for count, verb, resource in rows[:25]), "",
    ]
    text = "\n".join(lines)
    print(text, flush=True)
    if options.record:
        path = REPO / "lab/results" / f"{datetime.date.today()}-operator-idle.md"
        path.write_text(text)
        print(f"idle: {path}", file=sys.stderr)


main()
