"""A real S3 server (SeaweedFS, from a package registry) with one bucket; it can be away."""

import json
import os
import signal
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as xml

from cluster import spawn
from labkit.paths import CACHE, free_port, wait_until

BUCKET, PREFIX = "lab-tier", "some/prefix"


class Store:
    """An S3 server that can be away."""

    def __init__(self, work, host="127.0.0.1"):
        self.host, self.port, self.dir, self.log, self.process = host, free_port(), work / "s3", work / "s3.log", None
        self.dir.mkdir()
        self.ports = [free_port() for _ in range(5)]

    @property
    def endpoint(self):
        return f"http://{self.host}:{self.port}"

    def start(self):
        master, volume, filer, *_ = self.ports
        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        who = {"identities": [{"name": "anonymous", "actions": everything},
                              {"name": "lab", "credentials": [{"accessKey": "any", "secretKey": "any"}], "actions": everything}]}
        config = self.dir.with_suffix(".json")
        config.write_text(json.dumps(who))
        weed = CACHE / "s3" / "bin" / "weed"
        self.process = spawn([weed, "-logtostderr", "server", f"-dir={self.dir}", f"-ip={self.host}", f"-ip.bind={self.host}", "-s3", f"-s3.port={self.port}",
                              f"-s3.config={config}", "-s3.port.iceberg=0",
                              f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
                              f"-master.port.grpc={self.ports[3]}", f"-volume.port.grpc={self.ports[4]}",
                              f"-filer.port.grpc={free_port()}", f"-s3.port.grpc={free_port()}",
                              "-volume.max=50", "-master.volumeSizeLimitMB=256"], self.log)
        wait_until(lambda: self.ask("PUT", f"/{BUCKET}") in (200, 409), 60, "the S3 server")
        wait_until(lambda: self.ask("PUT", f"/{BUCKET}/ready", b"x") == 200, 60, "the S3 server to take objects")
        assert self.ask("DELETE", f"/{BUCKET}/ready") in (200, 204)

    def ask(self, method, path, data=None):
        request = urllib.request.Request(self.endpoint + path, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def away(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def back(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def get(self, key):
        with urllib.request.urlopen(f"{self.endpoint}/{BUCKET}/{PREFIX}/{urllib.parse.quote(key)}", timeout=30) as answer:
            return answer.read()

    def list_keys(self, folder):
        query = urllib.parse.urlencode({"list-type": 2, "prefix": f"{PREFIX}/{folder}"})
        with urllib.request.urlopen(f"{self.endpoint}/{BUCKET}?{query}", timeout=30) as answer:
            found = [item.text for item in xml.fromstring(answer.read()).iter() if item.tag.endswith("}Key") or item.tag == "Key"]
        return sorted(key.removeprefix(f"{PREFIX}/") for key in found)
