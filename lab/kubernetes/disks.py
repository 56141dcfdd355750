"""Cases about disks: larger ones, lost ones, replaced ones."""

import json
import os

from kube import Failed, expect, run, until
from objects import cluster, traffic, voters, well


def disks(space):
    """A disk grows while it is in use; one of a class that does not says so, and the rest applies."""
    pools = space.get("tmc", "orders")["spec"]["pools"]
    pools[0]["storage"]["size"] = "11Gi"
    before = space.pods()
    space.patch("tmc", "orders", {"spec": {"pools": pools}})
    # Not those that are kept of brokers that were taken out.
    ours = {pod.removesuffix("-0") + "-data" for pod in before}
    grown = lambda: {c["status"]["capacity"]["storage"] for c in space.get("pvc") if c["metadata"]["name"] in ours}
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
        space.is_("tmc", "orders", "Reconciled", "DiskLost", 120)
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


def replaced_disk(space):
    """A voter's disk is wiped, and its claim deleted: asked to, the operator gives it another, and no record is lost."""
    directory = lambda: json.loads(space.kubectl("get", "--raw", f"/api/v1/namespaces/{space.name}/pods/orders-1-0:8080/proxy/state").stdout)["identity"]["directoryIds"]
    before, was, uid = space.pods(), directory(), space.get("pvc", "orders-1-data")["metadata"]["uid"]
    with traffic(space, "traffic-of-disk"):
        # As by hand: what was in use is gone with the claim, and the pod comes back on another one.
        space.kubectl("delete", "pvc", "orders-1-data", "--wait=false")
        space.kubectl("delete", "pod", "orders-1-0")
        space.is_("tmc", "orders", "Reconciled", "DiskLost", 180)
        message = space.get("tmc", "orders")["status"]["message"]
        if "tidemark.dev/replace-disk=1" not in message:
            raise Failed(f"it is not said what to do: {message}")
        space.kubectl("annotate", "tmc", "orders", "tidemark.dev/replace-disk=1")
        well(space, 300)
    if directory() == was:
        raise Failed(f"the directory is still {was}")
    if space.get("pvc", "orders-1-data")["metadata"]["uid"] == uid:
        raise Failed("the claim is still the same")
    expect("voters", voters(space), [0, 1, 2])
    after = space.pods()
    expect("other brokers", {n: p for n, p in after.items() if n != "orders-1-0"}, {n: p for n, p in before.items() if n != "orders-1-0"})
    space.kubectl("annotate", "tmc", "orders", "tidemark.dev/replace-disk-")


def folder_of(space, claim):
    """Where a claim's file system is, on the machine."""
    volume = space.get("pvc", claim)["spec"]["volumeName"]
    return json.loads(run("kubectl", "get", "pv", volume, "-o", "json").stdout)["spec"]["local"]["path"]


def full_disk(space):
    """A disk is full: records are refused and reads go on, the status says what to do, and nothing is restarted; with a larger size it grows before anything else, and the same process takes records again."""
    storage = lambda size, **more: cluster("full", size=size, deletionPolicy="Delete", **more)
    space.apply(storage("1Gi"))
    space.is_("tmc", "full", "Reconciled", "True", 180)
    space.tidemark("full", "produce", "kept", "--create", text="before\n")
    before = space.get("pod", "full-0-0")["metadata"]["uid"]
    filler = folder_of(space, "full-0-data") + "/filler"
    free = os.statvfs(os.path.dirname(filler))
    # All of it but a few blocks, which the next records take.
    run("fallocate", "-l", str((free.f_bavail - 16) * free.f_frsize), filler)
    record = "x" * 100_000 + "\n"
    produce = lambda: space.tidemark("full", "produce", "kept", text=record * 20, check=False, timeout=180).returncode
    until("records are refused", 180, lambda: produce() != 0)
    expect("what can be read", space.tidemark("full", "consume", "kept", "-n", "1").stdout, "before\n")
    for condition in ["StorageReady", "Ready", "Reconciled"]:
        space.is_("tmc", "full", condition, "DiskFull")
    status = space.get("tmc", "full")["status"]
    expect("the broker", status["brokers"][0]["state"], "DiskFull")
    if "raise storage.size of pool brokers, and full-0-data grows" not in status["message"]:
        raise Failed(f"it is not said what to do: {status['message']}")
    told = lambda reason: [e for e in space.get("events") if e["reason"] == reason and e["involvedObject"]["name"] == "full"]
    until("an event", 60, lambda: told("DiskFull"))
    # A restart gives no room: a change waits for it.
    restarts = storage("1Gi")
    restarts["spec"]["pools"][0]["resources"] = {"requests": {"cpu": "20m"}}
    space.apply(restarts)
    until("a change that waits", 60, lambda: (space.get("tmc", "full")["status"].get("disruption") or {}).get("state") == "DiskFull")
    space.apply(storage("1Gi"))
    until("nothing that waits", 60, lambda: "disruption" not in space.get("tmc", "full")["status"])
    space.apply(storage("2Gi"))
    until("a disk of 2Gi", 90, lambda: space.get("pvc", "full-0-data")["status"]["capacity"]["storage"] == "2Gi")
    until("records are taken again", 180, lambda: produce() == 0)
    space.is_("tmc", "full", "StorageReady", "True")
    until("an event", 60, lambda: told("DiskHasRoom"))
    expect("the pod", space.get("pod", "full-0-0")["metadata"]["uid"], before)
    # Size and resources at once: the disk grows, the broker restarts, and neither waits for the other.
    both = storage("3Gi")
    both["spec"]["pools"][0]["resources"] = {"requests": {"cpu": "20m"}}
    space.apply(both)
    until("a disk of 3Gi", 90, lambda: space.get("pvc", "full-0-data")["status"]["capacity"]["storage"] == "3Gi")
    until("a broker with its resources", 180, lambda: space.get("pod", "full-0-0")["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "20m")
    space.is_("tmc", "full", "Reconciled", "True", 180)
    expect("what can be read", space.tidemark("full", "consume", "kept", "-n", "1").stdout, "before\n")
    space.kubectl("delete", "tmc", "full")
