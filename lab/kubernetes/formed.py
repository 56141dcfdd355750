"""Cases about how a cluster begins and how it goes."""

import os
import pathlib
import tempfile
import time

from kube import Failed, Space, expect, run, until
from objects import HOST, cluster, forget, holder, topic
from store import BUCKET, PREFIX, Store


def formation_killed(space):
    """The operator is killed after each step of a formation: the next one goes on, and the cluster is the same one."""
    space.apply(cluster("begun", replicas=3, voters=3, deletionPolicy="Delete"))
    ids = []
    for kind, name in [("configmap", "begun-formation"), ("secret", "begun-authority"), ("pvc", "begun-0-data"), ("sts", "begun-0"), ("pod", "begun-2-0")]:
        until(f"{kind} {name}", 120, lambda kind=kind, name=name: space.get(kind, name))
        run("kubectl", "-n", "tidemark-system", "delete", "pod", holder(), "--grace-period=0", "--force", check=False)
        ids.append(space.get("configmap", "begun-formation")["data"])
    space.is_("tmc", "begun", "Reconciled", "True", 240)
    expect("formations", [one for one in ids if one != ids[0]], [])
    expect("cluster id", space.get("tmc", "begun")["status"]["clusterId"], ids[0]["cluster-id"])
    expect("formation", space.get("configmap", "begun-formation")["data"], ids[0])
    space.kubectl("delete", "tmc", "begun")


def foreign_bucket(space):
    """A bucket that is another cluster's is not written to: the second one says whose it is, and serves from its disks."""
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "one-bucket"}, "stringData": keys}
    os.environ.update(keys)
    with tempfile.TemporaryDirectory(prefix="tidemark-kube-") as work:
        store = Store(pathlib.Path(work), HOST)
        store.start()
        tier = {"url": f"s3://{BUCKET}/{PREFIX}", "endpoint": store.endpoint, "region": "us-east-1",
                "credentials": {"secretRef": {"name": "one-bucket"}}, "upload": {"maxLag": "5s"}}
        try:
            space.apply(secret, cluster("owner", tier=tier))
            space.is_("tmc", "owner", "TierHealthy", "True", 180)
            id_ = space.get("tmc", "owner")["status"]["clusterId"]
            owners = store.list_keys("owner")
            space.apply(cluster("guest", tier=tier))
            space.is_("tmc", "guest", "TierHealthy", "Failing", 180)
            error = space.get("tmc", "guest")["status"]["tier"]["lastError"]
            if id_ not in error:
                raise Failed(f"it does not say whose the bucket is: {error}")
            space.is_("tmc", "guest", "Reconciled", "True", 180)
            space.tidemark("guest", "produce", "local", "--create", text="here\n")
            expect("what was written", space.tidemark("guest", "consume", "local").stdout, "here\n")
            guest = space.get("tmc", "guest")["status"]["clusterId"]
            expect("owners of the bucket", store.list_keys("owner"), owners)
            expect("what the second one has put there", [key for key in store.list_keys("") if guest in key], [])
        finally:
            for name in ("guest", "owner"):
                forget(space, name)
            store.process.kill()
            store.process.wait(10)


def namespace_gone(space):
    """A namespace with a cluster and topics that are deleted with their resources is gone within a minute."""
    own = Space("leaving")
    own.apply(cluster("small", deletionPolicy="Delete"), topic("going", of="small", partitions=3, deletionPolicy="Delete"))
    own.is_("tmt", "going", "Synced", "True", 180)
    expect("finalizers", own.get("tmt", "going")["metadata"]["finalizers"], ["tidemark.dev/topic"])
    from_ = time.monotonic()
    run("kubectl", "delete", "namespace", "leaving", "--timeout=60s")
    print(f"         gone after {time.monotonic() - from_:.0f} s")
