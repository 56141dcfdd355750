"""The cases of lab/kubernetes/e2e. Each is a function; those that fail are named at the end.

A case that needs a cluster takes the one that `formation` made; each leaves it well.
"""

import json
import pathlib
import sys
import tempfile
import time
import traceback

import chart as charts
import secure
from kube import IMAGE, Failed, Space, Traffic, Watch, expect, run, until
from store import BUCKET, PREFIX, Store

REPO = pathlib.Path(__file__).resolve().parents[2]
# The machine, as pods reach it.
HOST = "10.210.0.1"
EXAMPLE = (REPO / "examples/orders.yaml").read_text()


def cluster(name, replicas=1, voters=1, size="1Gi", storage=None, **spec):
    pool = {"name": "brokers", "replicas": replicas, "storage": {"size": size, **(storage or {})}}
    spec = {"quorum": {"voters": voters}, "pools": [pool], **spec}
    return {"apiVersion": "tidemark.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": name}, "spec": spec}


def topic(name, of="orders", **spec):
    spec = {"clusterRef": {"name": of}, **spec}
    return {"apiVersion": "tidemark.dev/v1alpha1", "kind": "Topic", "metadata": {"name": name}, "spec": spec}


def group(name, **spec):
    spec = {"clusterRef": {"name": "orders"}, **spec}
    return {"apiVersion": "tidemark.dev/v1alpha1", "kind": "ConsumerGroup", "metadata": {"name": name}, "spec": spec}


def install():
    definitions = [path.read_text() for path in sorted((REPO / "crds/yaml").glob("*.yaml"))]
    operator = (REPO / "operator/install.yaml").read_text().replace("tidemark:latest", f"{IMAGE}:1")
    run("kubectl", "apply", "-f", "-", text="\n---\n".join([*definitions, operator]))
    run("kubectl", "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    # On the nodes of an earlier run it is the image under the same name.
    run("kubectl", "-n", "tidemark-system", "rollout", "restart", "deploy/tidemark-operator")
    run("kubectl", "-n", "tidemark-system", "rollout", "status", "deploy/tidemark-operator", "--timeout=60s")


def holder():
    """The operator's pod that leads, as the Lease says."""
    lease = json.loads(run("kubectl", "-n", "tidemark-system", "get", "lease", "tidemark-operator", "-o", "json").stdout)
    return (lease["spec"].get("holderIdentity") or "").rsplit("_", 1)[0]


def operators():
    pods = json.loads(run("kubectl", "-n", "tidemark-system", "get", "pods", "-l", "app.kubernetes.io/name=tidemark-operator", "-o", "json").stdout)
    return [pod["metadata"]["name"] for pod in pods["items"] if "deletionTimestamp" not in pod["metadata"]]


def operator(replicas):
    run("kubectl", "-n", "tidemark-system", "scale", "deploy/tidemark-operator", f"--replicas={replicas}")
    if replicas:
        run("kubectl", "-n", "tidemark-system", "rollout", "status", "deploy/tidemark-operator", "--timeout=60s")
    else:
        gone = ["kubectl", "-n", "tidemark-system", "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=tidemark-operator"]
        run(*gone, "--timeout=60s", check=False)


def well(space, seconds=180):
    space.is_("tmc", "orders", "Reconciled", "True", seconds)


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
        with_("Cluster", listeners=[{"name": "client", "port": 9092}, {"name": "out", "port": 9094, "type": "LoadBalancer", "tls": {}}]),
        with_("Cluster", certificates={"validity": "30d", "renewBefore": "10d"}),
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
    # The bucket, once it is there.
    first[0]["spec"]["tier"] = {"url": "s3://bucket/prefix"}
    space.apply(first[0])
    for message, tier in [("tier.url cannot change", {"tier": {"url": "s3://bucket/other"}}), ("tier cannot be taken out", {"tier": None})]:
        done = space.kubectl("patch", "tmc", "rules", "--type=merge", "--dry-run=server", "-p", json.dumps({"spec": tier}), check=False)
        if not done.returncode or message not in done.stderr:
            raise Failed(f"{tier} is to be refused with '{message}': {done.stderr or 'it was accepted'}")
    space.kubectl("delete", "tmc,tmt,tmg", "rules")


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
    until("drift is mended", 60, lambda: setting("segment.bytes") != "1048576")
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


def groups(space):
    """Lag is told; a reset is shown, done once, and not again by a resource that is made anew."""
    space.tidemark("orders", "topic", "create", "invoices", "--partitions", "1")
    space.tidemark("orders", "produce", "invoices", text="".join(f"{i}\n" for i in range(10)))
    space.tidemark("orders", "consume", "invoices", "--group", "billing", "-n", "4")
    resource = group("billing", lag={"records": 5}, minMembers=0)
    space.apply(resource)
    space.is_("tmg", "billing", "LagWithinBounds", "TooFarBehind")
    expect("lag", space.get("tmg", "billing")["status"]["lag"]["records"], 6)

    def offset():
        rows = json.loads(space.tidemark("orders", "-o", "json", "group", "describe", "billing").stdout)
        return next(p["committed"] for p in rows["partitions"])

    reset = {"token": "one", "to": {"earliest": True}}
    resource["spec"]["reset"] = reset
    space.apply(resource)
    space.is_("tmg", "billing", "ResetApplied", "DryRun")
    expect("the plan", space.get("tmg", "billing")["status"]["reset"]["plan"], ["invoices-0: 4 to 0"])
    expect("offset after a dry run", offset(), 4)
    reset["dryRun"] = False
    space.apply(resource)
    space.is_("tmg", "billing", "ResetApplied", "True")
    expect("offset after the reset", offset(), 0)
    space.tidemark("orders", "consume", "invoices", "--group", "billing", "-n", "3")
    space.kubectl("delete", "tmg", "billing")
    space.apply(resource)
    space.is_("tmg", "billing", "ResetApplied", "True")
    expect("offset after the resource was made again", offset(), 3)


def roll(space):
    """New resources: one broker at a time, the controller last, no record lost, and Ready stays True."""
    space.apply(topic("traffic", partitions=6, replicas=3))
    space.is_("tmt", "traffic", "Synced", "True")
    controller = space.get("tmc", "orders")["status"]["controller"]
    before = space.pods()
    with Watch(space) as watch, Traffic(space, "orders", "traffic"):
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
    space.patch("tmc", "orders", {"spec": {"image": f"{IMAGE}:2"}})
    until("a roll", 60, lambda: space.pods() != before)
    run("kubectl", "-n", "tidemark-system", "delete", "pod", "-l", "app.kubernetes.io/name=tidemark-operator", "--grace-period=0", "--force")
    well(space)
    images = {pod["spec"]["containers"][0]["image"] for pod in space.get("pods") if pod["metadata"]["name"] in before}
    expect("images", images, {f"{IMAGE}:2"})


def bad_image(space):
    """An image that cannot be had stops one broker, and the old one heals it."""
    before = space.pods()
    with Watch(space) as watch:
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


def setting_of(space, topic, name):
    rows = json.loads(space.tidemark("orders", "-o", "json", "config", "show", "--topic", topic).stdout)
    return next((row["value"] for row in rows if row.get("setting", row.get("name")) == name), None)


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


def tier(space):
    """Records reach a real S3 server; wrong credentials are mended without a restart; the bucket is cut for a while."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bucket"},
              "stringData": {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "wrong"}}
    with tempfile.TemporaryDirectory(prefix="tidemark-kube-") as work:
        store = Store(pathlib.Path(work), HOST)
        store.start()
        try:
            space.apply(secret)
            space.patch("tmc", "orders", {"spec": {"tier": {
                "url": f"s3://{BUCKET}/{PREFIX}", "endpoint": store.endpoint, "region": "us-east-1",
                "credentials": {"secretRef": {"name": "bucket"}}, "upload": {"maxLag": "5s"}, "defaults": {"localRetention": "1h"}}}})
            well(space, 240)
            space.is_("tmc", "orders", "TierHealthy", "Failing")
            before = space.pods()
            secret["stringData"]["AWS_SECRET_ACCESS_KEY"] = "any"
            space.apply(secret)
            space.is_("tmc", "orders", "TierHealthy", "True", 180)
            space.apply(topic("cold", partitions=2, replicas=3, tier={"enabled": True}))
            space.is_("tmt", "cold", "Synced", "True")
            lines = lambda a, b: "".join(f"record-{i}\n" for i in range(a, b))
            space.tidemark("orders", "produce", "cold", text=lines(0, 500))
            objects = lambda: [key for key in store.list_keys("") if key.endswith(".segment")]
            until("objects in the bucket", 60, objects)
            until("nothing waits", 60, lambda: space.get("tmc", "orders")["status"]["tier"]["lag"] == "0s")
            store.away()
            space.tidemark("orders", "produce", "cold", text=lines(500, 1000))
            space.is_("tmc", "orders", "TierHealthy", "Failing", 180)
            expect("Ready", space.condition("tmc", "orders", "Ready")[0], "True")
            store.back()
            space.is_("tmc", "orders", "TierHealthy", "True", 180)
            until("nothing waits", 120, lambda: space.get("tmc", "orders")["status"]["tier"]["lag"] == "0s")
            expect("pods", space.pods(), before)
            found = space.tidemark("orders", "consume", "cold").stdout.split()
            expect("records", sorted(found), sorted(lines(0, 1000).split()))
            space.kubectl("delete", "tmt", "cold")
            space.tidemark("orders", "topic", "delete", "cold", "--execute")
        finally:
            store.back()
            store.process.kill()
            store.process.wait(10)


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
    space.apply(topic("traffic-of-drain", partitions=6, replicas=3))
    space.is_("tmt", "traffic-of-drain", "Synced", "True")
    count = len(space.pods())
    operator(0)
    try:
        with Watch(space) as watch, Traffic(space, "orders", "traffic-of-drain"):
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


def disks(space):
    """A disk grows while it is in use; one of a class that does not says so, and the rest applies."""
    pools = space.get("tmc", "orders")["spec"]["pools"]
    pools[0]["storage"]["size"] = "11Gi"
    before = space.pods()
    space.patch("tmc", "orders", {"spec": {"pools": pools}})
    grown = lambda: {c["status"]["capacity"]["storage"] for c in space.get("pvc") if c["metadata"]["name"].startswith("orders-")}
    until("claims of 11Gi", 90, lambda: grown() == {"11Gi"})
    expect("pods", space.pods(), before)
    space.apply(cluster("fixed", storage={"storageClassName": "lab-fixed"}, deletionPolicy="Delete"))
    space.is_("tmc", "fixed", "Reconciled", "True")
    fixed = cluster("fixed", size="2Gi", storage={"storageClassName": "lab-fixed"}, deletionPolicy="Delete")
    fixed["spec"]["config"] = {"num.partitions": "5"}
    space.apply(fixed)
    space.is_("tmc", "fixed", "Reconciled", "ExpansionForbidden")
    until("the setting is rolled out", 120, lambda: "num.partitions=5" in space.get("configmap", "fixed-0")["data"]["broker.properties"]
          and space.get("tmc", "fixed")["status"].get("disruption") is None and space.get("tmc", "fixed")["status"]["ready"] == "1/1")
    space.kubectl("delete", "tmc", "fixed")


def lost_disk(space):
    """A broker whose data was wiped does not come back as a voter that knows nothing."""
    volume = space.get("pvc", "orders-1-data")["spec"]["volumeName"]
    data = json.loads(run("kubectl", "get", "pv", volume, "-o", "json").stdout)["spec"]["local"]["path"] + "/data"
    kept = data + ".kept"
    stopped = lambda: "orders-1-0" not in [pod["metadata"]["name"] for pod in space.get("pods")]
    # A broker that stops still writes below the name of its directory.
    space.kubectl("scale", "sts", "orders-1", "--replicas=0")
    until("the broker is stopped", 90, stopped)
    run("mv", data, kept)
    space.kubectl("scale", "sts", "orders-1", "--replicas=1")
    try:
        space.is_("tmc", "orders", "Reconciled", "BrokerFailing", 120)
        message = space.get("tmc", "orders")["status"]["message"]
        log = space.kubectl("logs", "orders-1-0", "-c", "format", check=False)
        if "its disk is lost" not in log.stderr + log.stdout:
            raise Failed(f"the broker says {log.stdout or log.stderr!r}, the cluster {message!r}")
    finally:
        space.kubectl("scale", "sts", "orders-1", "--replicas=0")
        until("the broker is stopped", 90, stopped)
        run("rm", "-rf", data)
        run("mv", kept, data)
        space.kubectl("scale", "sts", "orders-1", "--replicas=1")
    well(space)


def scale_up(space):
    """A fourth broker comes, without a vote, and restarts nobody."""
    before = space.pods()
    pools = space.get("tmc", "orders")["spec"]["pools"]
    pools[0]["replicas"] = 4
    space.patch("tmc", "orders", {"spec": {"pools": pools}})
    well(space)
    after = space.pods()
    expect("brokers", sorted(after), ["orders-0-0", "orders-1-0", "orders-2-0", "orders-3-0"])
    expect("those that were there", {n: after[n] for n in before}, before)
    quorum = space.tidemark("orders", "-o", "json", "cluster", "quorum", "describe").stdout
    expect("voters", len([r for r in json.loads(quorum)["replicas"] if r["role"] != "observer"]), 3)


def replicas(space, name, count, **more):
    pools = space.get("tmc", name)["spec"]["pools"]
    pools[0] = {**pools[0], "replicas": count, **more}
    space.patch("tmc", name, {"spec": {"pools": pools}})


def voters(space, name="orders"):
    rows = json.loads(space.tidemark(name, "-o", "json", "cluster", "quorum", "describe").stdout)["replicas"]
    return sorted(row["node"] for row in rows if row["role"] != "observer")


def holders(space, topic, name="orders"):
    """The brokers that hold something of a topic."""
    rows = json.loads(space.tidemark(name, "-o", "json", "topic", "describe", topic).stdout)["partitions"]
    return sorted({id_ for row in rows for id_ in row["replicas"]})


def scale_down(space):
    """From 5 to 3 with data and under load: nothing is lost, nobody else restarts, and the claims stay."""
    replicas(space, "orders", 5)
    well(space)
    space.apply(topic("spread", partitions=10, replicas=3))
    space.is_("tmt", "spread", "Synced", "True")
    expect("brokers that hold the topic", holders(space, "spread"), [0, 1, 2, 3, 4])
    stay = {n: p for n, p in space.pods().items() if n in ("orders-0-0", "orders-1-0", "orders-2-0")}
    with Traffic(space, "orders", "spread"):
        time.sleep(2)
        replicas(space, "orders", 3)
        # The operator is killed again and again; each goes on where the last one stopped.
        for _ in range(3):
            time.sleep(5)
            run("kubectl", "-n", "tidemark-system", "delete", "pod", holder(), "--grace-period=0", "--force", check=False)
        well(space, 300)
    expect("pods", space.pods(), stay)
    expect("brokers that hold the topic", holders(space, "spread"), [0, 1, 2])
    expect("ready", space.get("tmc", "orders")["status"]["ready"], "3/3")
    left = [o["metadata"]["name"] for kind in ("sts", "svc", "configmap") for o in space.get(kind) if o["metadata"]["name"] in ("orders-3", "orders-4")]
    expect("what is left of those that went", left, [])
    claims = [c["metadata"]["name"] for c in space.get("pvc")]
    expect("their claims", [c for c in claims if c in ("orders-3-data", "orders-4-data")], ["orders-3-data", "orders-4-data"])
    brokers = json.loads(space.tidemark("orders", "-o", "json", "cluster", "describe").stdout)["brokers"]
    expect("registered brokers", sorted(b["id"] for b in brokers), [0, 1, 2])
    # A kept disk is used again.
    replicas(space, "orders", 4)
    well(space)
    expect("brokers", len(space.pods()), 4)


def scale_down_voter(space):
    """A voter that is named goes: another one votes before, and Ready stays True."""
    before, controller = space.pods(), space.get("tmc", "orders")["status"]["controller"]
    expect("voters", voters(space), [0, 1, 2])
    space.apply(topic("spread-of-voter", partitions=10, replicas=3))
    space.is_("tmt", "spread-of-voter", "Synced", "True")
    with Watch(space) as watch, Traffic(space, "orders", "spread-of-voter"):
        replicas(space, "orders", 3, remove=[controller])
        well(space, 300)
    stay = [id_ for id_ in range(4) if id_ != controller]
    expect("voters", voters(space), stay)
    after = space.pods()
    expect("brokers", sorted(after), [f"orders-{id_}-0" for id_ in stay])
    restarted = [name for name in after if after[name] != before[name]]
    expect("brokers that were restarted", restarted, ["orders-3-0"])
    expect("moments without Ready", watch.unavailable, [])
    replicas(space, "orders", 4)
    well(space)
    expect("voters", voters(space), stay)


def scale_down_blocked(space):
    """Topics with three replicas keep three brokers, and are named; nothing is touched until they go."""
    space.apply(cluster("small", replicas=3, voters=1, deletionPolicy="Delete", storage={"onScaleDown": "Delete"}))
    space.is_("tmc", "small", "Reconciled", "True")
    space.tidemark("small", "topic", "create", "wide", "-p", "3", "-r", "3")
    pods = space.pods("small")
    replicas(space, "small", 2)
    space.is_("tmc", "small", "Reconciled", "ScaleDownBlocked")
    message = space.get("tmc", "small")["status"]["message"]
    if "wide" not in message:
        raise Failed(f"the topic is not named: {message}")
    time.sleep(5)
    expect("pods", space.pods("small"), pods)
    space.tidemark("small", "topic", "delete", "wide", "--execute")
    space.is_("tmc", "small", "Reconciled", "True", 180)
    expect("brokers", sorted(space.pods("small")), ["small-0-0", "small-1-0"])
    until("its claim is gone", 60, lambda: "small-2-data" not in [c["metadata"]["name"] for c in space.get("pvc")])
    space.kubectl("delete", "tmc", "small")


def scale_down_reversed(space):
    """A broker that was to go stays after all, in the middle of it: nothing is stopped, and it may have replicas again."""
    before = space.pods()
    space.apply(topic("many", partitions=60, replicas=3))
    space.is_("tmt", "many", "Synced", "True")
    # One without a vote: another one would be restarted to vote in its place, and back.
    last = next(id_ for id_ in range(4) if id_ not in voters(space))
    replicas(space, "orders", 3, remove=[last])
    until("a broker that leaves", 60, lambda: "tidemark.dev/leaving" in space.get("pvc", f"orders-{last}-data")["metadata"]["annotations"])
    replicas(space, "orders", 4)
    well(space)
    expect("pods", space.pods(), before)
    expect("marks", "tidemark.dev/leaving" in space.get("pvc", f"orders-{last}-data")["metadata"]["annotations"], False)
    space.tidemark("orders", "topic", "create", "after", "-p", "8", "-r", "3")
    if last not in holders(space, "after"):
        raise Failed(f"broker {last} gets no new replicas")
    space.kubectl("delete", "tmt", "many")
    space.tidemark("orders", "topic", "delete", "many", "--execute")


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


def operator_dashboard(space):
    """Each panel of the operator's dashboard has data from a real Prometheus, and its alerts fire."""
    # Only here: it needs what lab/dashboards is installed with.
    import watched
    watched.operator_dashboard(space, cluster, operator)


CASES = [rules, examples, formation, blank_status, topics, topic_names, groups, roll, operator_killed, bad_image, approval, drain,
         disks, lost_disk, cold_start, scale_up, scale_down, scale_down_voter, scale_down_reversed, scale_down_blocked,
         two_operators, live_settings, unreadable, made_again, tier, listeners, tls, operator_dashboard, chart]


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
