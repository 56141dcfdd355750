"""Dashboards and alerts against a real Prometheus that scrapes a real, loaded cluster.

1. promtool has its say on the rules (rules.py), and the dashboards are those of their table.
2. Three brokers under load: each query of each panel has a value, each series that rules, their
   tests or dashboards name is scraped, and no alert fires.
3. Faults, one after the other: the named panels move and the named alerts fire. Afterwards all are quiet.

Windows and waits of the rules are shortened here, and thresholds where a lab cannot reach them.
"""

import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

import rules
from cluster import IDS, SMALL, Node, Prometheus, certificate, end, jobs_of
from labkit import clock
from labkit.paths import CACHE, REPO, TIDEMARK, wait_until

DASHBOARDS = REPO / "dashboards"
WINDOWS = {"5m": "6s", "10m": "8s", "15m": "15s", "1h": "15s"}
# What would take hours, or more load than a test should make.
THRESHOLDS = {"GroupLagTime": ("300", "4"), "FollowerLagging": ("10000", "50"), "GroupRebalancing": ("10", "3"),
              "ProduceErrors": ("> 1", "> 0.1"), "PartitionHot": ("1e6", "1e5"), "TierLag": ("900", "5"), "SnapshotStale": ("900", "2"),
              # Each broker's partition tries again after some seconds, and the window is one of seconds as well.
              "TierFailing": ("> 2", "> 0"), "RollBlocked": ("900", "5")}
# Fire only when a device or a store fails in its own way, or a restore hangs, or with a load that is more than a lab's; promtool's cases stand for them.
NOT_HERE = {"DiskFailed", "RestoreWaits", "TierDenied", "TierReserveLow", "TierVerifyFailed"}
# Of the operator: lab/kubernetes/watched.py has them fire.
OF_OPERATOR = {"RollBlocked", "OperatorDown", "ReconcileFailing"}


# Series of the operator.
OPERATORS = re.compile(r"tidemark_(operator|cluster)_")


def shortened():
    """The rules, with windows and waits of seconds."""

    groups = copy.deepcopy(yaml.safe_load(rules.RULES.read_text()))
    for rule in (rule for group in groups["groups"] for rule in group["rules"]):
        old, new = THRESHOLDS.get(rule.get("alert"), ("", ""))
        assert old in rule["expr"], f"{rule['alert']} has no {old}"
        rule["expr"] = rule["expr"].replace(old, new, 1) if old else rule["expr"]
        rule["expr"] = re.sub(r"\[(\w+)\]", lambda m: f"[{WINDOWS[m[1]]}]", rule["expr"])
        if "for" in rule:
            rule["for"] = "1s"
    return groups


def panels(of_operator=False):
    """Each query of each panel, by dashboard and title, as Grafana would ask it: those of the operator, or all others."""
    asked = {}
    for path in sorted((DASHBOARDS / "grafana").glob("*.json")):
        if (path.stem == "operator") != of_operator:
            continue
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                expr = re.sub(r"\$(cluster|instance|topic|group)", ".*", target["expr"])
                expr = expr.replace("$__rate_interval", "6s").replace("[1h]", "[15s]").replace("[15m]", "[15s]")
                assert "$" not in expr and "vector(" not in expr, expr
                asked.setdefault((path.stem, panel["title"]), []).append(expr)
    return asked


def series_named():
    """Series that rules, their tests and dashboards rest on, without what Prometheus adds to a histogram."""
    texts = [rules.RULES.read_text(), Path(rules.__file__).read_text(), *(p.read_text() for p in (DASHBOARDS / "grafana").glob("*.json"))]
    return {name for name in re.findall(r"\btidemark_[a-z_]+", "\n".join(texts)) if not OPERATORS.match(name)}


class Load:
    """Producers and a group that go on whatever happens."""

    def __init__(self, bootstrap):
        self.bootstrap, self.over, self.hot = bootstrap, threading.Event(), threading.Event()
        self.stuck = threading.Event()
        for work in (lambda: self.produce("all"), lambda: self.produce("1"), self.read, self.read_stuck):
            threading.Thread(target=work, daemon=True).start()

    def produce(self, acks):
        producer = Producer({"bootstrap.servers": self.bootstrap, "acks": acks, "linger.ms": 5, "log_level": 0,
                             "message.timeout.ms": 5000, "queue.buffering.max.messages": 20_000})
        while not self.over.is_set():
            for topic in ("load", "strict", "single", "unclean", "tiered"):
                try:
                    producer.produce(topic, os.urandom(300))
                    if self.hot.is_set() and topic == "load":
                        for _ in range(20):
                            producer.produce("load", os.urandom(1000), partition=0)
                except (BufferError, KafkaException):
                    pass
            producer.poll(0)
            self.over.wait(0.02)

    def consumer(self, group):
        return Consumer({"bootstrap.servers": self.bootstrap, "group.id": group, "auto.offset.reset": "earliest",
                         "auto.commit.interval.ms": 500, "session.timeout.ms": 6000, "log_level": 0})

    def read(self):
        consumer = self.consumer("readers")
        consumer.subscribe(["load"])
        while not self.over.is_set():
            consumer.poll(0.2)
        consumer.close()

    def read_stuck(self):
        """A group that reads, and from some time on only says that it is there."""
        consumer = self.consumer("sleepers")
        consumer.subscribe(["strict"])
        while not self.over.is_set():
            consumer.poll(0.2)
            if self.stuck.is_set():
                consumer.pause(consumer.assignment())
        consumer.close()

    def rebalance(self):
        """Members that come and go."""
        for _ in range(4):
            consumer = self.consumer("readers")
            consumer.subscribe(["load"])
            wait_until(lambda: consumer.poll(0.2) is not None or consumer.assignment(), 20, "a member's assignment")
            consumer.close()


class Lab:
    def __init__(self, work):
        self.work, self.nodes, self.prometheus, self.load = work, {n: Node(n, work) for n in IDS}, None, None
        self.fired = set()

    def start(self):
        nodes = list(self.nodes.values())
        self.nodes[SMALL].mount()
        for node in nodes:
            node.format(nodes)
        for node in nodes:
            node.start()
        for node in nodes:
            node.wait_ready()
        self.bootstrap = ",".join(f"127.0.0.1:{n.port}" for n in nodes)
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        spread = [[1, 2, 3], [2, 3, 1], [1, 3, 2], [2, 1, 3]]
        self.create("load", spread)
        self.create("strict", [[1, 2, 3]], {"min.insync.replicas": "3"})
        self.create("single", [[SMALL]], {"min.insync.replicas": "1"})
        self.create("unclean", [[2, 3]], {"min.insync.replicas": "1"})
        self.create("tiered", [[1, 2, 3]], {"remote.storage.enable": "true"})
        self.load = Load(self.bootstrap)
        self.prometheus = Prometheus(self.work, jobs_of(nodes), shortened())

    def create(self, topic, assignment, config=None):
        made = self.admin.create_topics([NewTopic(topic, num_partitions=len(assignment), replica_assignment=assignment,
                                                  config=config or {})], request_timeout=15)
        made[topic].result(20)

    def in_sync(self, topic):
        return self.admin.list_topics(topic, timeout=10).topics[topic].partitions[0].isrs

    def end(self):
        if self.load:
            self.load.over.set()
        if self.prometheus:
            end(self.prometheus.process)
        for node in self.nodes.values():
            if node.process:
                node.process.kill()
                node.process.wait(30)
            node.unmount()

    def rest(self):
        self.asked = panels()
        for panel, exprs in self.asked.items():
            for expr in exprs:
                wait_until(lambda: self.prometheus.query(expr), 40, f"a value in {panel[0]}: {panel[1]}\n{expr}", every=0.5)
        names = self.prometheus.names()
        missing = {name for name in series_named() if not {name, f"{name}_bucket"} & names}
        assert not missing, f"named and never scraped: {sorted(missing)}"
        wait_until(lambda: not self.prometheus.firing(), 30, "all alerts being quiet", every=0.5)
        say(f"{len(self.asked)} panels have values, {len(series_named())} series are scraped, no alert fires")

    def fault(self, name, inject, moves, fires, seconds=45):
        """Injects a fault when no panel shows it any more; each panel, named as in `3am: Under min ISR > 0`, must come
        to show such a value, and the alerts must fire."""
        began = time.monotonic()
        moves = [re.fullmatch(r"(\w+): (.+) ([<>]) (\S+)", move).groups() for move in moves]
        shown, fired = {}, set()

        def values():
            """What each panel shows, by its title: the extreme of its values, if it is where it is to be."""
            for dashboard, title, side, bound in moves:
                least = side == "<"
                now = [v for e in self.asked[dashboard, title] for v in self.prometheus.query(e).values()]
                extreme = (min if least else max)(now, default=float(bound))
                yield title, extreme, extreme < float(bound) if least else extreme > float(bound)

        before = {}

        def calm():
            now = list(values())
            before.update({title: extreme for title, extreme, _ in now})
            return not any(there for _, _, there in now)

        wait_until(calm, 40, f"panels not showing {name} before it", every=0.5)
        inject()

        def seen():
            shown.update({title: extreme for title, extreme, there in values() if there and title not in shown})
            firing = self.prometheus.firing()
            for alert in set(fires) & set(firing) - fired:
                text = firing[alert]["annotations"]["description"]
                assert not re.search(r"<|{{|%!", text), text
                fired.add(alert)
            return len(shown) == len(moves) and fired == set(fires)

        try:
            wait_until(seen, seconds, "a fault", every=0.5)
        except AssertionError as error:
            still, quiet = before.keys() - shown.keys(), set(fires) - fired
            raise AssertionError(f"{name}: panels that do not show it: {still or 'none'}, "
                                 f"alerts that do not fire: {quiet or 'none'}\n{error}") from None
        self.fired |= fired
        told = ", ".join(f"{title} {before[title]:.3g} -> {extreme:.3g}" for title, extreme in shown.items())
        say(f"{name}: {', '.join(fires)}{'; ' if told else ''}{told} ({time.monotonic() - began:.0f} s)")

    def faults(self):
        one, two, small = (self.nodes[n] for n in IDS)
        self.fault("a group that stops reading", self.load.stuck.set,
                   ["3am: Group lag > 4", "groups: Lag in time > 4", "groups: Lag > 100"], ["GroupStuck", "GroupLagTime"])
        self.fault("one busy partition", self.load.hot.set,
                   ["3am: Hottest partitions > 1e5", "topic: Received by partition > 1e5"], ["PartitionHot"])
        self.load.hot.clear()
        self.fault("members that come and go", self.load.rebalance,
                   ["groups: Rebalances in a quarter of an hour > 3"], ["GroupRebalancing"])

        self.fault("a certificate that ends soon", lambda: certificate(one.certificate, 5),
                   ["3am: Certificates end in < 1e6"], ["CertificateExpiring"])
        certificate(one.certificate, 400)

        # A file in its place takes nothing, and has nothing.
        bucket, away = self.work / "bucket", self.work / "bucket-away"

        def lose_bucket():
            bucket.rename(away)
            bucket.touch()
            # Something that only the metadata know.
            self.create("meanwhile", [[1, 2, 3]])
        self.fault("a bucket that is down", lose_bucket,
                   ["3am: Oldest record not in the bucket > 5", "3am: Bucket failures > 0", "tier: Failures > 0",
                    "tier: Lag > 5"], ["TierLag", "TierFailing", "SnapshotStale"], seconds=90)
        bucket.unlink()
        away.rename(bucket)
        wait_until(lambda: max(self.prometheus.query("tidemark_tier_lag_seconds").values()) < 5, 90, "the bucket catching up", every=0.5)

        def slow():
            small.stop()
            small.start("disk.flush.delay.us=300000")
            small.wait_ready()
        self.fault("a slow disk", slow, ["3am: Durable write, 99 of 100 > 0.3", "3am: Acknowledgement, 99 of 100 > 0.3"],
                   ["FsyncSlow", "AckLatency"])

        def skew():
            small.stop()
            small.start(env=clock.off(60, self.work))
            small.wait_ready()
        self.fault("a clock that is off", skew, [], ["ClockSkew"])
        small.stop()
        damage(small.dir / "logs" / "load-1")
        self.fault("a damaged log", lambda: (small.start(), small.wait_ready()), ["topic: Replicas offline > 0"], ["LogFailed"])
        # As the runbook says.
        small.stop()
        small.start(words=["--cut-corrupt-logs"])
        small.wait_ready()
        mended = f'tidemark_partitions_offline{{instance="127.0.0.1:{small.http_port}"}} == 0'
        wait_until(lambda: self.prometheus.query(mended), 30, "the damaged log being served again", every=0.5)

        def fill():
            self.load.hot.set()
            for _ in small.fill():
                time.sleep(0.2)
        self.fault("a full disk", fill,
                   ["3am: Full or failed disks > 0", "3am: Disk free in four hours < -3e11", "3am: Disk free < 1e8"],
                   ["DiskReadOnly", "DiskFullSoon"])
        self.load.hot.clear()
        small.empty()
        self.fault("a broker that is killed", small.kill,
                   ["3am: Partitions without a leader > 0", "3am: Under min ISR > 0", "3am: Fenced brokers > 0",
                    "3am: Brokers ready < 1", "3am: Slowest follower > 50", "3am: Errors to producers > 0.1"],
                   ["BrokerDown", "BrokerFenced", "PartitionsOffline", "UnderMinIsr", "UnderReplicated", "AtMinIsr",
                    "FollowerLagging", "ProduceErrors"])

        small.start()
        small.wait_ready()

        def lose_quorum():
            # One after the other, or `unclean` would have an in-sync replica on each.
            small.kill()
            wait_until(lambda: self.in_sync("unclean") == [two.number], 30, "the dead broker leaving the ISR", every=0.2)
            two.kill()
        self.fault("a quorum that is lost", lose_quorum,
                   ["3am: Active controllers < 1", "3am: Brokers ready < 1", "broker: Controller last heard of > 5"],
                   ["QuorumNoLeader"])
        self.fault("a start without a quorum", lambda: (one.stop(), one.start()), [], ["BrokerNotReady"])
        small.start()
        one.wait_ready()
        small.wait_ready()

        def unclean():
            done = subprocess.run([TIDEMARK, "-b", f"127.0.0.1:{one.port}", "cluster", "elect", "--unclean", "unclean:0",
                                   "--accept-data-loss"], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr
        self.fault("an unclean election", unclean, ["broker: Replication gone wrong > 0"], ["UncleanElection"])
        two.start()
        two.wait_ready()
        unseen = set(rules.alerts()) - self.fired - NOT_HERE - OF_OPERATOR
        assert not unseen, f"alerts that no fault here fires: {unseen}"


def damage(partition):
    """Shortens a log of a stopped broker below what its checkpoint says."""
    log = next(p for p in sorted(partition.glob("*.log")) if p.stat().st_size)
    os.truncate(log, log.stat().st_size // 2)
    return log


# Enums stand as their values in JSON.
TYPES = """import type { Dashboard } from "@grafana/schema";
type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[]
  : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
"""


def check_types():
    """Has TypeScript hold each dashboard against Grafana's own type of one."""
    grafana = CACHE / "grafana"
    dashboards = sorted((DASHBOARDS / "grafana").glob("*.json"))
    source = grafana / "check.ts"
    source.write_text(TYPES + "".join(f"export const d{at}: Json<Dashboard> = {path.read_text()};\n"
                                      for at, path in enumerate(dashboards)))
    done = subprocess.run(["npx", "tsc", "--noEmit", "--strict", "--skipLibCheck", "--module", "esnext",
                           "--moduleResolution", "bundler", "--target", "es2022", source.name],
                          cwd=grafana, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[:3000] + done.stderr
    return len(dashboards)


def say(text):
    print(f"lab/dashboards: {text}", flush=True)


def main():
    subprocess.run([DASHBOARDS / "generate", "--check"], check=True)
    say(f"{check_types()} dashboards are of Grafana's type")
    say(f"promtool: {rules.check(CACHE / 'prometheus/usr/bin/promtool')} cases of {len(rules.alerts())} alerts")
    work = Path(tempfile.mkdtemp(prefix="dashboards-", dir=os.environ.get("LAB_RUN_DIR")))
    lab = Lab(work)
    try:
        lab.start()
        lab.rest()
        lab.faults()
    except BaseException:
        say(f"kept: {work}")
        raise
    finally:
        lab.end()
    subprocess.run(["rm", "-rf", work], check=True)
    say("all alerts fired and all panels moved")


if __name__ == "__main__":
    sys.exit(main())
