"""The cases of lab/kubernetes/e2e. Each is a function; those that fail are named at the end.

A case that needs a cluster takes the one that `formation` made; each leaves it well.
"""

import json
import pathlib
import sys
import time
import traceback

import chart as charts
import secure
from buckets import restore, tier
from disks import disks, full_disk, lost_disk, replaced_disk
from formed import foreign_bucket, formation_killed, namespace_gone
from groups import active_group, groups, stuck_group
from kube import IMAGE, Failed, Space, Watch, expect, run, until
from objects import REPO, cluster, group, holder, install, operator, operators, setting_of, topic, traffic, well
from rolling import behind, levels, node_loss, roll_killed, unreplicated, unschedulable, windows
from scaling import racks, scale_down, scale_down_blocked, scale_down_reversed, scale_down_voter, scale_up

EXAMPLE = (REPO / "examples/orders.yaml").read_text()


# --- cases


def rules(space):
    """Every CEL rule: what it accepts and what it refuses, by the API server itself."""
    first = [
        cluster("rules", replicas=3, voters=3, storage={"storageClassName": "lab"}),
        topic("rules", partitions=3, topicName="rules"),
        group("rules", groupId="rules", reset={"token": "a", "to": {"latest": True}}),
    ]
    # Paused, so that no broker is made for what is only written down.
    first[0]["spec"]["paused"] = True
    space.apply(*first)
    of = {o["kind"]: o for o in first}

    def with_(kind, name="rules", **spec):
        return {**of[kind], "metadata": {"name": name}, "spec": {**of[kind]["spec"], **spec}}

    def pool(**more):
        return [{**of["Cluster"]["spec"]["pools"][0], **more}]

    def bigger(size, class_="lab"):
        storage = {"size": size} if class_ is None else {"size": size, "storageClassName": class_}
        return pool(storage=storage)

    other = {"clusterRef": {"name": "other"}}
    accepted = [
        with_("Cluster", pools=pool(replicas=4)),
        with_("Cluster", pools=bigger("2Gi")),
        with_("Cluster", pools=[*pool(), {**pool()[0], "name": "more"}]),
        with_("Cluster", pools=[*pool(), {**pool()[0], "name": "more", "replicas": 0, "remove": [7]}]),
        with_("Cluster", "one", quorum={"voters": 1}, pools=pool(replicas=2)),
        with_("Cluster", "x" * 40),
        with_("Cluster", "one", quorum={"voters": 1}, pools=pool(replicas=1)),
        with_("Cluster", tier={"url": "s3://bucket/prefix", "upload": {"maxLag": "1m"}, "cache": {"size": "128Mi"}}),
        with_("Cluster", "new", tier={"url": "file:///bucket", "defaults": {"enabled": True, "localRetention": "unlimited"}}),
        with_("Cluster", racks={"values": ["z1", "z2"]}, recovery={"diskLost": {"policy": "Replace", "after": "1h"}}),
        with_("Cluster", "new", tier={"url": "s3://bucket/new"}, restore={"mode": "Takeover", "dryRun": True, "topics": ["a.*"], "at": "2026-11-25T12:00:00Z"}),
        with_("Cluster", "new", tier={"url": "s3://bucket/new"}, restore={"mode": "Clone", "source": "s3://bucket/prefix", "replicationFactor": 1}),
        with_("Cluster", listeners=[{"name": "client", "port": 9092}, {"name": "out", "port": 9094, "type": "LoadBalancer", "tls": {}}]),
        with_("Cluster", certificates={"validity": "30d", "renewBefore": "10d"}),
        with_("Cluster", disruption={"windows": [{"name": "night", "start": "22:30", "duration": "4h"},
                                                 {"name": "weekend", "days": ["Saturday", "Sunday"], "start": "00:00", "duration": "1d"}]}),
        with_("Cluster", features={"policy": "Manual", "level": 1, "soak": "unlimited"}),
        with_("Cluster", listeners=[{"name": "client", "port": 9092, "tls": {"source": "CertManager", "issuerRef": {"name": "a"}},
                                     "authentication": [{"type": "MutualTLS", "caSecretRef": {"name": "a"}}]}]),
        with_("Topic", tier={"enabled": True, "localRetention": "1h", "localRetentionBytes": "1Gi"}),
        with_("Topic", partitions=4),
        with_("Topic", "new", minInsyncReplicas=2, replicas=2, retention="1d12h", retentionBytes="100Gi"),
        with_("Topic", "new", retention="unlimited", config={"retention.bytes": "5"}),
        with_("ConsumerGroup", reset={"token": "b", "to": {"shift": -5}}),
    ]
    refused = [
        ("DNS label of at most 40", with_("Cluster", "x" * 41)),
        ("as many brokers as voters", with_("Cluster", "new", pools=pool(replicas=2))),
        ("set its replicas to 0 first", with_("Cluster", pools=pool(name="other"))),
        ("as many brokers as voters", with_("Cluster", pools=pool(replicas=2))),
        ("a disk cannot shrink", with_("Cluster", pools=bigger("512Mi"))),
        ("should match", with_("Cluster", "new", tier={"url": "ftp://bucket"})),
        ("should match", with_("Cluster", disruption={"windows": [{"name": "night", "start": "24:00", "duration": "4h"}]})),
        ("should match", with_("Cluster", disruption={"windows": [{"name": "night", "start": "22:00", "duration": "unlimited"}]})),
        ("Unsupported value", with_("Cluster", disruption={"windows": [{"name": "a", "days": ["Caturday"], "start": "22:00", "duration": "1h"}]})),
        ("Duplicate value", with_("Cluster", disruption={"windows": [{"name": "a", "start": "22:00", "duration": "1h"}] * 2})),
        ("greater than or equal to 1", with_("Cluster", features={"level": 0})),
        ("give tier", with_("Cluster", "new", restore={"mode": "Takeover"})),
        ("take out restore.source", with_("Cluster", "new", tier={"url": "s3://bucket/new"}, restore={"mode": "Takeover", "source": "s3://bucket/other"})),
        ("give it as restore.source", with_("Cluster", "new", tier={"url": "s3://bucket/new"}, restore={"mode": "Clone"})),
        ("give it as restore.source", with_("Cluster", "new", tier={"url": "s3://bucket/new"}, restore={"mode": "Clone", "source": "s3://bucket/new"})),
        ("should match", with_("Cluster", "new", tier={"url": "s3://bucket/new"}, restore={"mode": "Takeover", "topics": ["a b"]})),
        ("can neither come nor go later", with_("Cluster", tier={"url": "s3://bucket/new"}, restore={"mode": "Takeover"})),
        ("give one of them", with_("Topic", tier={"enabled": True}, config={"remote.storage.enable": "true"})),
        ("give one of them", with_("Topic", tier={"localRetention": "1h"}, config={"local.retention.ms": "5"})),
        ("give one of them", with_("Topic", tier={"localRetentionBytes": "1"}, config={"local.retention.bytes": "5"})),
        ("are the cluster's own", with_("Cluster", listeners=[{"name": "client", "port": 9091}])),
        ("are the cluster's own", with_("Cluster", listeners=[{"name": "replication", "port": 9092}])),
        ("a port of its own", with_("Cluster", listeners=[{"name": "client", "port": 9092}, {"name": "other", "port": 9092}])),
        ("MutualTLS needs tls", with_("Cluster", listeners=[
            {"name": "client", "port": 9092, "authentication": [{"type": "MutualTLS", "caSecretRef": {"name": "a"}}]}])),
        ("needs secretRef", with_("Cluster", listeners=[{"name": "client", "port": 9092, "tls": {"source": "Secret"}}])),
        ("needs issuerRef", with_("Cluster", listeners=[{"name": "client", "port": 9092, "tls": {"source": "CertManager"}}])),
        ("type and port of a listener cannot change", with_("Cluster", listeners=[{"name": "client", "port": 9093}])),
        ("storageClassName cannot change", with_("Cluster", pools=bigger("1Gi", "lab-fixed"))),
        ("storageClassName cannot change", with_("Cluster", pools=bigger("1Gi", None))),
        ("voters must be 1, 3 or 5", with_("Cluster", "new", quorum={"voters": 2})),
        ("chosen when the cluster is made", with_("Cluster", quorum={"voters": 1})),
        ("clusterRef cannot change", with_("Topic", **other)),
        ("clusterRef cannot change", with_("ConsumerGroup", **other)),
        ("topicName cannot change", with_("Topic", topicName="other")),
        ("groupId cannot change", with_("ConsumerGroup", groupId="other")),
        ("partitions cannot be taken away", with_("Topic", partitions=2)),
        ("more than replicas", with_("Topic", minInsyncReplicas=3, replicas=2)),
        ("give one of them", with_("Topic", retention="1d", config={"retention.ms": "5"})),
        ("give one of them", with_("Topic", retentionBytes="1", config={"retention.bytes": "5"})),
        ("give one of them", with_("Topic", cleanup="Delete", config={"cleanup.policy": "delete"})),
        ("give one of them", with_("Topic", minInsyncReplicas=1, config={"min.insync.replicas": "1"})),
        ("should match", with_("Topic", "new", retention="7w")),
        ("should match", with_("Topic", "new", retentionBytes="1GB")),
        ("give one of earliest", with_("ConsumerGroup", reset={"token": "b", "to": {}})),
        ("give one of earliest", with_("ConsumerGroup", reset={"token": "b", "to": {"latest": True, "shift": 1}})),
    ]
    for candidate in accepted:
        space.kubectl("replace", "--dry-run=server", "-f", "-", text=json.dumps(candidate)) if candidate["metadata"]["name"] == "rules" \
            else space.kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(candidate))
    for message, candidate in refused:
        verb = "replace" if candidate["metadata"]["name"] == "rules" else "create"
        done = space.kubectl(verb, "--dry-run=server", "-f", "-", text=json.dumps(candidate), check=False)
        if not done.returncode or message not in done.stderr:
            raise Failed(f"{candidate['kind']} {candidate['spec']} is to be refused with '{message}': {done.stderr or 'it was accepted'}")
    # A restore changes while it is a dry run.
    dry = with_("Cluster", "dry", tier={"url": "s3://bucket/dry"}, restore={"mode": "Takeover", "dryRun": True})
    space.apply(dry)
    space.patch("tmc", "dry", {"spec": {"restore": {"topics": ["a"]}}}, "--dry-run=server")
    space.patch("tmc", "dry", {"spec": {"restore": {"dryRun": False}}})
    for message, restore in [("no dry run", {"topics": ["a"]}), ("no dry run", {"dryRun": True}), ("can neither come nor go later", None)]:
        done = space.kubectl("patch", "tmc", "dry", "--type=merge", "--dry-run=server", "-p", json.dumps({"spec": {"restore": restore}}), check=False)
        if not done.returncode or message not in done.stderr:
            raise Failed(f"{restore} is to be refused with '{message}': {done.stderr or 'it was accepted'}")
    # The bucket, once it is there.
    first[0]["spec"]["tier"] = {"url": "s3://bucket/prefix"}
    space.apply(first[0])
    first[0]["spec"]["racks"] = {"values": ["z1"]}
    space.apply(first[0])
    for message, racks in [("racks cannot be taken out", None), ("topologyKey cannot change", {"topologyKey": "kubernetes.io/hostname"})]:
        done = space.kubectl("patch", "tmc", "rules", "--type=merge", "--dry-run=server", "-p", json.dumps({"spec": {"racks": racks}}), check=False)
        if not done.returncode or message not in done.stderr:
            raise Failed(f"{racks} is to be refused with '{message}': {done.stderr or 'it was accepted'}")
    for message, tier in [("tier.url cannot change", {"tier": {"url": "s3://bucket/other"}}), ("tier cannot be taken out", {"tier": None})]:
        done = space.kubectl("patch", "tmc", "rules", "--type=merge", "--dry-run=server", "-p", json.dumps({"spec": tier}), check=False)
        if not done.returncode or message not in done.stderr:
            raise Failed(f"{tier} is to be refused with '{message}': {done.stderr or 'it was accepted'}")
    space.kubectl("delete", "tmc,tmt,tmg", "rules")
    space.kubectl("delete", "tmc", "dry")


def formation(space):
    """The example is Ready within a minute, and a record goes round."""
    from_ = time.monotonic()
    space.apply(EXAMPLE)
    space.is_("tmc", "orders", "Reconciled", "True", 60)
    print(f"         ready after {time.monotonic() - from_:.0f} s")
    space.client()
    space.tidemark("orders", "produce", "greetings", "--create", text="hello\n")
    expect("what was written", space.tidemark("orders", "consume", "greetings").stdout, "hello\n")
    expect("the columns", run("kubectl", "-n", space.name, "get", "tidemark").stdout.split()[:6], ["NAME", "READY", "AVAILABLE", "ISR", "TIER", "LAG"])


def blank_status(space):
    """Without its status the operator comes to the same decisions: nothing restarts."""
    before, id_ = space.pods(), space.get("tmc", "orders")["status"]["clusterId"]
    space.patch("tmc", "orders", {"status": None}, "--subresource=status")
    until("a status", 60, lambda: space.get("tmc", "orders")["status"]["clusterId"])
    well(space)
    expect("pods", space.pods(), before)
    expect("cluster id", space.get("tmc", "orders")["status"]["clusterId"], id_)


def topics(space):
    """A topic is made, grows, has its drift mended, and is not shortened without approval."""
    space.apply(topic("payments", partitions=2, replicas=3, retention="7d"))
    space.is_("tmt", "payments", "Synced", "True")

    def setting(name):
        rows = json.loads(space.tidemark("orders", "-o", "json", "config", "show", "--topic", "payments").stdout)
        return next((row["value"] for row in rows if row.get("setting", row.get("name")) == name), None)

    expect("retention", setting("retention.ms"), "604800000")
    space.patch("tmt", "payments", {"spec": {"partitions": 4}})
    until("four partitions", 60, lambda: space.get("tmt", "payments")["status"]["partitions"] == 4)
    # Somebody sets what the spec does not say.
    space.tidemark("orders", "topic", "alter", "payments", "--set", "segment.bytes=1048576", "--execute", check=False)
    space.tidemark("orders", "topic", "alter", "payments", "--set", "segment.bytes=1048576", check=False)
    until("drift is mended", 90, lambda: setting("segment.bytes") != "1048576")
    space.patch("tmt", "payments", {"spec": {"retention": "1h"}})
    space.is_("tmt", "payments", "Synced", "AwaitingApproval")
    expect("retention", setting("retention.ms"), "604800000")
    id_ = space.get("tmt", "payments")["status"]["pendingId"]
    space.kubectl("annotate", "tmt", "payments", f"tidemark.dev/approve={id_}")
    space.is_("tmt", "payments", "Synced", "True")
    expect("retention", setting("retention.ms"), "3600000")


def topic_names(space):
    """A name belongs to one resource; the second changes nothing and takes nothing with it."""
    space.apply(topic("first", topicName="shared", partitions=1))
    space.is_("tmt", "first", "Synced", "True")
    time.sleep(1.1)  # Creation times are in seconds, and the older claim has it.
    space.apply(topic("second", topicName="shared", partitions=9, deletionPolicy="Delete"))
    space.is_("tmt", "second", "Accepted", "NameTaken")
    space.kubectl("delete", "tmt", "second", "--timeout=30s")
    expect("partitions", space.get("tmt", "first")["status"]["partitions"], 1)
    space.tidemark("orders", "topic", "describe", "shared")
    # And with the first one it goes.
    space.patch("tmt", "first", {"spec": {"deletionPolicy": "Delete"}})
    until("the finalizer", 30, lambda: space.get("tmt", "first")["metadata"].get("finalizers"))
    space.kubectl("delete", "tmt", "first", "--timeout=30s")
    gone = space.tidemark("orders", "topic", "describe", "shared", check=False)
    expect("exit code of describe", gone.returncode, 1)


def roll(space):
    """New resources: one broker at a time, the controller last, no record lost, and Ready stays True."""
    controller = space.get("tmc", "orders")["status"]["controller"]
    before = space.pods()
    with Watch(space) as watch, traffic(space, "traffic"):
        pools = space.get("tmc", "orders")["spec"]["pools"]
        pools[0]["resources"] = {"requests": {"cpu": "10m"}}
        space.patch("tmc", "orders", {"spec": {"pools": pools}})
        well(space)
        time.sleep(2)
    after = space.pods()
    expect("brokers that were restarted", [n for n in before if before[n][1] != after[n][1]], sorted(before))
    expect("brokers down at once", watch.most_down, 1)
    expect("the last broker", watch.order[-1:], [f"orders-{controller}-0"])
    expect("moments without Ready", watch.unavailable, [])
    until("nothing is left to restart", 30, lambda: "disruption" not in space.get("tmc", "orders")["status"])


def operator_killed(space):
    """The operator is killed in the middle of a roll: the next one goes on."""
    before = space.pods()
    with traffic(space, "traffic-of-killed"):
        space.patch("tmc", "orders", {"spec": {"image": f"{IMAGE}:2"}})
        until("a roll", 60, lambda: space.pods() != before)
        run("kubectl", "-n", "tidemark-system", "delete", "pod", "-l", "app.kubernetes.io/name=tidemark-operator", "--grace-period=0", "--force")
        # The first broker on another image has to prove itself.
        well(space, 360)
    images = {pod["spec"]["containers"][0]["image"] for pod in space.get("pods") if pod["metadata"]["name"] in before}
    expect("images", images, {f"{IMAGE}:2"})


def bad_image(space):
    """An image that cannot be had stops one broker, and the old one heals it."""
    before = space.pods()
    with Watch(space) as watch, traffic(space, "traffic-of-image"):
        space.patch("tmc", "orders", {"spec": {"image": f"{IMAGE}:none"}})
        space.is_("tmc", "orders", "Reconciled", "ImagePull")
        time.sleep(10)
        touched = [name for name, pod in space.pods().items() if pod[0] != before[name][0]]
        expect("brokers with the bad image", len(touched), 1)
        space.patch("tmc", "orders", {"spec": {"image": f"{IMAGE}:2"}})
        well(space)
    expect("brokers down at once", watch.most_down, 1)


def approval(space):
    """Without approval nothing restarts, and a broker that is evicted comes back as it was."""
    space.patch("tmc", "orders", {"spec": {"disruption": {"mode": "Approval"}, "config": {"num.partitions": "2"}}})
    space.is_("tmc", "orders", "Reconciled", "AwaitingApproval")
    plan, before = space.get("tmc", "orders")["status"]["disruption"], space.pods()
    space.kubectl("delete", "pod", "orders-0-0")
    until("the pod is back", 90, lambda: space.pods()["orders-0-0"][2] and space.pods()["orders-0-0"][0] != before["orders-0-0"][0])
    expect("templates", {n: p[1] for n, p in space.pods().items()}, {n: p[1] for n, p in before.items()})
    # Another change is another plan.
    space.patch("tmc", "orders", {"spec": {"config": {"num.partitions": "3"}}})
    space.kubectl("annotate", "tmc", "orders", f"tidemark.dev/approve={plan['id']}")
    time.sleep(10)
    expect("templates", {n: p[1] for n, p in space.pods().items()}, {n: p[1] for n, p in before.items()})
    plan = space.get("tmc", "orders")["status"]["disruption"]
    space.kubectl("annotate", "tmc", "orders", "--overwrite", f"tidemark.dev/approve={plan['id']}")
    well(space)
    space.patch("tmc", "orders", {"spec": {"disruption": {"mode": "Automatic"}}})


def live_settings(space):
    """A setting that brokers take while they run restarts nobody; one that is wrong is refused alone, and its bounds are told."""
    before = space.pods()
    config = space.get("tmc", "orders")["spec"].get("config", {})
    space.patch("tmc", "orders", {"spec": {"config": {"log.retention.ms": "7200000"}}})
    until("the setting is in force", 60, lambda: setting_of(space, "greetings", "retention.ms") == "7200000")
    space.patch("tmc", "orders", {"spec": {"config": {"log.retention.ms": "3600000", "message.max.bytes": "-4", "num.partitions": "many"}}})
    space.is_("tmc", "orders", "ConfigApplied", "SettingRefused")
    refused = space.get("tmc", "orders")["status"]["config"]["refused"]
    if not ("message.max.bytes" in refused[0] and "at least 0" in refused[0] and "num.partitions" in refused[1]):
        raise Failed(f"what is refused is not named with its bounds: {refused}")
    until("the other one is in force", 60, lambda: setting_of(space, "greetings", "retention.ms") == "3600000")
    # What somebody else set stays, and is told.
    space.tidemark("orders", "config", "set", "--brokers", "log.segment.delete.delay.ms=50000")
    until("a foreign setting", 60, lambda: space.get("tmc", "orders")["status"]["config"]["foreign"] == ["log.segment.delete.delay.ms"])
    space.tidemark("orders", "config", "set", "--brokers", "--unset", "log.segment.delete.delay.ms")
    space.patch("tmc", "orders", {"spec": {"config": {"log.retention.ms": None, "message.max.bytes": None, "num.partitions": config.get("num.partitions")}}})
    # Defaults are not shown.
    until("the default is back", 60, lambda: setting_of(space, "greetings", "retention.ms") is None)
    space.is_("tmc", "orders", "ConfigApplied", "True")
    well(space)
    expect("pods", space.pods(), before)


def cold_start(space):
    """Every broker fails on a setting from its first start: the mended setting starts them all."""
    # Accepted one by one, and refused by the broker that takes them together.
    space.apply(cluster("cold", replicas=3, voters=3, config={"controller.quorum.election.timeout.ms": "50"}))
    space.is_("tmc", "cold", "Reconciled", "BrokerFailing")
    space.patch("tmc", "cold", {"spec": {"config": {"controller.quorum.election.timeout.ms": "1000"}}})
    space.is_("tmc", "cold", "Reconciled", "True", 240)
    space.patch("tmc", "cold", {"spec": {"deletionPolicy": "Delete"}})
    until("claims have an owner", 60, lambda: all("ownerReferences" in c["metadata"] for c in space.get("pvc") if c["metadata"]["name"].startswith("cold-")))
    space.kubectl("delete", "tmc", "cold")
    until("claims go with the cluster", 90, lambda: not [c for c in space.get("pvc") if c["metadata"]["name"].startswith("cold-")])


def drain(space):
    """Each node is drained with no operator there: no record is lost."""
    count, at_work = len(space.pods()), traffic(space, "traffic-of-drain")
    operator(0)
    try:
        with Watch(space) as watch, at_work:
            for node in ("n1", "n2", "n3"):
                run("kubectl", "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s",
                    "--pod-selector=tidemark.dev/cluster=orders", timeout=150)
                run("kubectl", "uncordon", node)
                until("all are ready", 120, lambda: len(space.pods()) == count and all(p[2] for p in space.pods().values()))
        expect("brokers down at once", watch.most_down, 1)
    finally:
        for node in ("n1", "n2", "n3"):
            run("kubectl", "uncordon", node)
        operator(2)
    well(space)


def two_operators(space):
    """Of two operators one acts; it is killed, and the other one takes over."""
    expect("operators", len(operators()), 2)
    first = until("a leader", 60, holder)
    lines = lambda pod: run("kubectl", "-n", "tidemark-system", "logs", pod).stdout
    waiting = next(pod for pod in operators() if pod != first)
    if "this operator leads" in lines(waiting):
        raise Failed(f"{waiting} leads as well as {first}")
    node = json.loads(run("kubectl", "-n", "tidemark-system", "get", "pod", first, "-o", "json").stdout)["spec"]["nodeName"]
    # As a process that stands still: it gives nothing back, and when it goes on it must not act.
    pids = run("pgrep", "-f", "tidemark operator").stdout.split()
    mine = [pid for pid in pids if first in pathlib.Path(f"/proc/{pid}/environ").read_text(errors="replace")]
    run("kill", "-STOP", *mine)
    try:
        from_ = time.monotonic()
        until("another leader", 60, lambda: holder() not in ("", first))
        print(f"         another leads after {time.monotonic() - from_:.0f} s")
        expect("the leader", holder(), waiting)
        space.patch("tmc", "orders", {"metadata": {"annotations": {"lab/touched": "1"}}})
        space.apply(topic("by-the-second", partitions=1))
        space.is_("tmt", "by-the-second", "Synced", "True")
    finally:
        run("kill", "-CONT", *mine)
    until(f"the old leader on {node} ends", 60, lambda: "does not lead" in run("kubectl", "-n", "tidemark-system", "logs", "-p", first).stderr
          + run("kubectl", "-n", "tidemark-system", "logs", "-p", first).stdout)
    expect("the leader", holder(), waiting)
    well(space)


def made_again(space):
    """A cluster that is deleted and applied again has its id and its data."""
    id_, pools = space.get("tmc", "orders")["status"]["clusterId"], space.get("tmc", "orders")["spec"]["pools"]
    space.kubectl("delete", "tmc", "orders")
    until("pods are gone", 120, lambda: not space.pods())
    again = cluster("orders", voters=3)
    again["spec"]["pools"] = pools
    space.apply(again)
    well(space)
    expect("cluster id", space.get("tmc", "orders")["status"]["clusterId"], id_)
    expect("what was written", space.tidemark("orders", "consume", "greetings").stdout, "hello\n")


def unreadable(space):
    """One object that cannot be read does not stop the others."""
    # Past the schema, as an older operator sees a newer object.
    enum = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/cleanup/enum"
    run("kubectl", "patch", "crd", "topics.tidemark.dev", "--type=json", "-p", json.dumps([{"op": "remove", "path": enum}]))
    until("the definition", 30, lambda: space.apply(topic("strange", cleanup="Shred"), check=False).returncode == 0)
    space.apply(topic("sane", partitions=1))
    try:
        space.is_("tmt", "sane", "Synced", "True")
    finally:
        space.kubectl("delete", "tmt", "strange", "sane")
        run("kubectl", "apply", "-f", str(REPO / "crds/yaml/topics.yaml"))


def examples(space):
    """Every example is accepted by the API server."""
    charts.examples(space, REPO)


def chart(space):
    """The chart with helm: install, protect, upgrade, roll back, uninstall."""
    charts.chart(space, REPO)


def listeners(space):
    """Clients come in from outside of the pods' network."""
    secure.listeners(space, cluster)


def tls(space):
    """Who is who is proved, and certificates change under traffic."""
    secure.tls(space, cluster)


def cert_manager(space):
    """Certificates that cert-manager's own controllers sign and renew."""
    secure.cert_manager(space, cluster)


def operator_dashboard(space):
    """Each panel of the operator's dashboard has data from a real Prometheus, and its alerts fire."""
    # Only here: it needs what lab/dashboards is installed with.
    import watched
    watched.operator_dashboard(space, cluster, operator)


CASES = [rules, examples, formation, formation_killed, blank_status, topics, topic_names, groups, stuck_group, active_group, roll,
         operator_killed, roll_killed, bad_image, unschedulable, approval, windows, unreplicated, behind, levels, drain, node_loss,
         disks, full_disk, lost_disk, replaced_disk, cold_start, scale_up, scale_down, scale_down_voter, scale_down_reversed,
         scale_down_blocked, racks, two_operators, live_settings, unreadable, made_again, tier, foreign_bucket, restore, listeners, tls,
         cert_manager, operator_dashboard, namespace_gone, chart]


def main(names):
    known = {case.__name__: case for case in CASES}
    for name in names:
        if name not in known:
            sys.exit(f"e2e: no case {name}: {', '.join(known)}")
    install()
    space = Space("shop")
    failed = []
    for case in [known[name] for name in names] or CASES:
        from_ = time.monotonic()
        print(f"  ...    {case.__name__}: {case.__doc__.splitlines()[0]}", flush=True)
        try:
            case(space)
            verdict = "ok"
        except Failed as error:
            verdict = f"FAILED: {error}"
        except Exception:
            verdict = "FAILED: " + traceback.format_exc()
        if verdict != "ok":
            failed.append(case.__name__)
        print(f"  {time.monotonic() - from_:4.0f} s {case.__name__}: {verdict}", flush=True)
    print(f"cases: {len(CASES if not names else names) - len(failed)} passed, {len(failed)} failed {' '.join(failed)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(sys.argv[1:])
