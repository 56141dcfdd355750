"""Cases about disks: larger ones, lost ones, replaced ones."""

import json

from kube import Failed, expect, run, until
from objects import cluster, traffic, voters, well


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
