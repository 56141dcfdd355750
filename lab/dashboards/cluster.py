"""Three brokers on loopback that keep the metadata too, and the Prometheus that scrapes them."""

import json
import os
import re
import shutil
import subprocess
import urllib.parse
import urllib.request

from labkit.paths import CACHE, TIDEMARK, free_port, wait_until

IDS = (1, 2, 3)
# The one that has a disk of its own, which can be full.
SMALL = 3
CLUSTER_ID = "tidemark-lab-dashbrd0A"


def spawn(command, log, env=None):
    """A process that goes when this one does, however that comes about."""
    with open(log, "ab") as out:
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *map(str, command)], stdin=subprocess.DEVNULL,
                                stdout=out, stderr=out, env=env, start_new_session=True)


def certificate(path, days):
    """A certificate that is good for so long, with its key; put in its place at once."""
    new = path.with_suffix(".new")
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                           "-days", str(days), "-subj", "/CN=lab", "-keyout", "/dev/stdout"], capture_output=True, check=True)
    new.write_bytes(made.stdout)
    new.replace(path)


def end(process, seconds=30):
    if process and process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


class Node:
    def __init__(self, number, work):
        self.number, self.dir, self.process = number, work / f"disk-{number}", None
        self.port, self.quorum_port, self.http_port = free_port(), free_port(), free_port()
        self.tls_port, self.certificate = free_port(), work / f"{number}.pem"
        certificate(self.certificate, 400)
        self.config, self.log = work / f"{number}.yaml", work / f"{number}.log"
        self.dir.mkdir()

    def mount(self):
        image = self.dir.with_suffix(".img")
        subprocess.run(["truncate", "-s", "1G", image], check=True)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, self.dir], check=True)

    def unmount(self):
        if os.path.ismount(self.dir):
            subprocess.run(["umount", "-l", self.dir], check=False)

    def format(self, nodes):
        address = f"127.0.0.1:{self.port}"
        settings = {
            "node.id": self.number, "process.roles": "broker,controller", "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{address},SSL://127.0.0.1:{self.tls_port},CONTROLLER://127.0.0.1:{self.quorum_port}",
            "inter.broker.listener.name": "PLAINTEXT", "ssl.keystore.type": "PEM", "ssl.keystore.location": str(self.certificate),
            "advertised.listeners": f"PLAINTEXT://{address}", "http.listen": f"127.0.0.1:{self.http_port}",
            "controller.quorum.bootstrap.servers": ",".join(f"127.0.0.1:{n.quorum_port}" for n in nodes),
            "log.dirs": str(self.dir / "logs"), "tier.url": f"file://{self.dir.parent / 'bucket'}",
            "tier.upload.max.lag.ms": 1000, "default.replication.factor": 3, "min.insync.replicas": 2,
            "offsets.topic.replication.factor": 3, "offsets.topic.num.partitions": 3,
            "group.initial.rebalance.delay.ms": 0, "group.min.session.timeout.ms": 500,
            "auto.create.topics.enable": False, "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500, "replica.lag.time.max.ms": 3000,
        }
        if self.number == SMALL:
            # Little is held back from the disk, so that it is soon found to be full.
            settings |= {"wal.file.bytes": 1 << 20, "wal.max.bytes": 4 << 20, "wal.memory.bytes": 8 << 20}
        self.config.write_text(json.dumps({"config": settings}, indent=1))  # which is YAML as well
        voters = ",".join(f"{n.number}@127.0.0.1:{n.quorum_port}:tidemark-lab-disk000{n.number}A" for n in nodes)
        subprocess.run([TIDEMARK, "format", "--cluster-id", CLUSTER_ID, "--config", self.config,
                        "--initial-voters", voters], check=True, capture_output=True)

    def start(self, *settings, words=(), env=None):
        self.began_at = self.log.stat().st_size if self.log.exists() else 0
        more = [word for setting in settings for word in ("--set", setting)]
        self.process = spawn([TIDEMARK, "broker", "--config", self.config, *more, *words], self.log, env)

    def wait_ready(self, seconds=60):
        def is_ready():
            assert self.process.poll() is None, f"broker {self.number} ended:\n{self.log.read_text()[-3000:]}"
            with open(self.log, "rb") as log:
                log.seek(self.began_at)
                return re.search(rb"^ready ", log.read(), re.MULTILINE)
        wait_until(is_ready, seconds, f"broker {self.number} being ready")

    def kill(self):
        self.process.kill()
        self.process.wait(30)

    def stop(self):
        end(self.process)

    def fill(self):
        """Takes the rest of the disk, in some steps as a disk fills up."""
        with open(self.dir / "filler", "wb") as file:
            for step in (64 << 20, 1 << 20, 1 << 12):
                while shutil.disk_usage(self.dir).free >= step:
                    try:
                        os.posix_fallocate(file.fileno(), file.tell(), step)
                    except OSError:
                        break
                    file.seek(step, os.SEEK_CUR)
                    if step > 1 << 20:
                        yield

    def empty(self):
        (self.dir / "filler").unlink(missing_ok=True)


def jobs_of(nodes):
    """What is scraped of brokers."""
    targets = [f"127.0.0.1:{n.http_port}" for n in nodes]
    job = {"static_configs": [{"targets": targets, "labels": {"cluster": "lab"}}]}
    return [{"job_name": "tidemark", **job},
            {"job_name": "tidemark-partitions", "metrics_path": "/metrics/partitions", **job}]


class Prometheus:
    def __init__(self, work, jobs, rules):
        self.port, self.log = free_port(), work / "prometheus.log"
        (work / "alerts.json").write_text(json.dumps(rules))  # which is YAML as well
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(work / "alerts.json")],
            "scrape_configs": jobs,
        }
        path = work / "prometheus.json"
        path.write_text(json.dumps(config))
        self.process = spawn([CACHE / "prometheus/usr/bin/prometheus", f"--config.file={path}",
                              f"--storage.tsdb.path={work / 'tsdb'}", f"--web.listen-address=127.0.0.1:{self.port}"], self.log)
        wait_until(self.is_ready, 30, "Prometheus being ready")

    def is_ready(self):
        assert self.process.poll() is None, f"Prometheus ended:\n{self.log.read_text()[-3000:]}"
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=2).status == 200
        except OSError:
            return False

    def ask(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}", timeout=20) as answer:
            return json.load(answer)["data"]

    def query(self, expr):
        """Values by their labels, those that are no number left out."""
        result = self.ask("query", query=expr)["result"]
        return {json.dumps(r["metric"], sort_keys=True): float(r["value"][1]) for r in result if r["value"][1] != "NaN"}

    def firing(self):
        """Firing alerts, by name."""
        alerts = self.ask("alerts")["alerts"]
        return {a["labels"]["alertname"]: a for a in alerts if a["state"] == "firing"}

    def names(self):
        return set(self.ask("label/__name__/values"))
