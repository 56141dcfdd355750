"""Cases with a real S3 server: what moves to it, and what comes back from it."""

import datetime
import os
import pathlib
import re
import tempfile
import time

from kube import Failed, expect, run, until
from objects import HOST, cluster, forget, topic, well
from store import BUCKET, PREFIX, Store


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


def backed_up(report, since):
    """Whether every backup that a preview of a restore names is younger than a moment."""
    times = re.findall(r"backed up (\S+)Z", report)
    moment = datetime.datetime.fromtimestamp(since, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return bool(times) and max(times) > moment


def restore(space):
    """A cluster whose disks are gone comes back from its bucket; a copy of some topics is made beside it."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "lost-bucket"},
              "stringData": {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}}
    lines = lambda a, b: "".join(f"record-{i}\n" for i in range(a, b))
    # As the store's own tools have them, for looks from here.
    os.environ.update(secret["stringData"])
    with tempfile.TemporaryDirectory(prefix="tidemark-kube-") as work:
        store = Store(pathlib.Path(work), HOST)
        store.start()
        bucket = lambda prefix: {"url": f"s3://{BUCKET}/{prefix}", "endpoint": store.endpoint, "region": "us-east-1",
                                 "credentials": {"secretRef": {"name": "lost-bucket"}}, "upload": {"maxLag": "5s"}}
        names = ("lost", "copy")
        try:
            space.apply(secret, cluster("lost", replicas=3, voters=3, tier=bucket(PREFIX)))
            space.is_("tmc", "lost", "TierHealthy", "True", 180)
            space.is_("tmc", "lost", "Reconciled", "True", 180)
            id_ = space.get("tmc", "lost")["status"]["clusterId"]
            space.apply(topic("sales", of="lost", partitions=2, replicas=3, tier={"enabled": True}),
                        topic("other", of="lost", partitions=1, replicas=3, tier={"enabled": True}))
            for name in ("sales", "other"):
                space.is_("tmt", name, "Synced", "True")
            space.tidemark("lost", "produce", "sales", text=lines(0, 600))
            space.tidemark("lost", "produce", "other", text=lines(0, 50))
            first = space.tidemark("lost", "consume", "sales", "--group", "billing", "-n", "200").stdout.split()
            from_ = time.time()
            # Written to the same log of offsets, so that a backup comes that has what was committed before.
            space.tidemark("lost", "consume", "other", "--group", "billing", "-n", "1")
            # All that was told so far is in the bucket: records, the metadata, and what groups have committed.
            until("records are in the bucket", 90, lambda: space.get("tmc", "lost")["status"]["tier"]["lag"] == "0s")
            shown = lambda: run("tidemark", "tier", "restore", f"s3://{BUCKET}/{PREFIX}", "--endpoint", store.endpoint, "--region", "us-east-1", "--dry-run").stdout
            # Nothing goes back: the offset that was committed is of records that are there.
            until("the topics are, too", 150, lambda: "sales: 2 partitions, 600 offsets" in shown() and "other: 1 partition, 50 offsets" in shown())
            until("and what the group has committed", 150, lambda: backed_up(shown(), from_))
            for name in ("sales", "other"):
                space.kubectl("delete", "tmt", name)
            forget(space, "lost")
            print(f"         lost {time.time() - from_:.0f} s after the last record")

            # First what would come back, and nothing else.
            again = cluster("lost", replicas=3, voters=3, tier=bucket(PREFIX), restore={"mode": "Takeover", "dryRun": True})
            space.apply(again)
            report = until("the preview", 90, lambda: space.get("tmc", "lost")["status"]["restore"]["report"])
            if not any(line.startswith("sales: 2 partitions, 600 offsets") for line in report):
                raise Failed(f"the preview does not name what comes back: {report}")
            expect("brokers before it is taken over", space.pods("lost"), {})
            owners = store.list_keys("owner")
            del again["spec"]["restore"]["dryRun"]
            space.apply(again)
            space.is_("tmc", "lost", "Restored", "True", 240)
            space.is_("tmc", "lost", "Reconciled", "True", 240)
            status = space.get("tmc", "lost")["status"]
            if status["clusterId"] == id_ or len(store.list_keys("owner")) != len(owners) + 1:
                raise Failed(f"it is no new cluster: {status['clusterId']}, {store.list_keys('owner')}")
            if id_ not in status["restore"]["report"][0]:
                raise Failed(f"the report does not say of whom it is: {status['restore']['report']}")
            records = lambda name, topic: sorted(space.tidemark(name, "consume", topic, check=False).stdout.split())
            until("every record is there", 120, lambda: records("lost", "sales") == sorted(lines(0, 600).split()))
            rest = space.tidemark("lost", "consume", "sales", "--group", "billing", "-n", "400").stdout.split()
            expect("what the group had not read", sorted(first + rest), sorted(lines(0, 600).split()))
            before = space.pods("lost")
            space.tidemark("lost", "produce", "sales", text=lines(600, 700))
            expect("records that came after", len(records("lost", "sales")), 700)

            # A copy of one topic, with one broker, while the other cluster goes on.
            space.apply(cluster("copy", tier=bucket("copied"), restore={"mode": "Clone", "source": f"s3://{BUCKET}/{PREFIX}", "topics": ["oth*"]}))
            space.is_("tmc", "copy", "Restored", "Copied", 180)
            until("every record is there", 120, lambda: records("copy", "other") == sorted(lines(0, 50).split()))
            gone = space.tidemark("copy", "topic", "describe", "sales", check=False)
            expect("exit code of describe of what was not asked for", gone.returncode, 1)
            expect("pods of the other", space.pods("lost"), before)
        finally:
            for name in names:
                space.kubectl("delete", "tmc", name, check=False)
                space.kubectl("delete", "pvc,configmap", "-l", f"tidemark.dev/cluster={name}", check=False)
            store.process.kill()
            store.process.wait(10)
