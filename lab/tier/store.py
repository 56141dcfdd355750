"""Object stores from package registries, with one bucket each; they can be away: a real S3 server (SeaweedFS), and
Microsoft's emulator of Azure's (Azurite)."""

import base64
import email.utils
import hashlib
import hmac
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


def get_object(url, key):
    with urllib.request.urlopen(f"{url}/{urllib.parse.quote(key)}", timeout=30) as answer:
        return answer.read()


class Store:
    """An S3 server that can be away."""

    def __init__(self, work, host="127.0.0.1", volumes=50):
        self.volumes = volumes
        self.host, self.port, self.dir, self.log, self.process = host, free_port(), work / "s3", work / "s3.log", None
        self.link = None
        self.dir.mkdir()
        self.ports = [free_port() for _ in range(6)]

    url = f"s3://{BUCKET}/{PREFIX}"
    environment = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}

    @property
    def endpoint(self):
        return f"http://{self.host}:{self.link.port if self.link else self.port}"

    def start(self):
        master, volume, filer, *_ = self.ports
        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        who = {"identities": [{"name": "anonymous", "actions": everything},
                              {"name": "lab", "credentials": [{"accessKey": "any", "secretKey": "any"}], "actions": everything}]}
        config = self.dir.with_suffix(".json")
        config.write_text(json.dumps(who))
        weed = CACHE / "s3" / "bin" / "weed"
        self.process = spawn([weed, "-logtostderr", "server", f"-dir={self.dir}", f"-ip={self.host}", f"-ip.bind={self.host}", "-s3", f"-s3.port={self.port}",
                              f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0",
                              f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
                              f"-master.port.grpc={self.ports[3]}", f"-volume.port.grpc={self.ports[4]}",
                              f"-filer.port.grpc={free_port()}", f"-s3.port.grpc={free_port()}",
                              f"-metricsPort={self.ports[5]}", f"-metricsIp={self.host}",
                              f"-volume.max={self.volumes}", "-master.volumeSizeLimitMB=256"], self.log)
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

    def metrics(self):
        """(name, labels as text, value) of all that it counts."""
        with urllib.request.urlopen(f"http://{self.host}:{self.ports[5]}/metrics", timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return [(line.split("{")[0].split(" ")[0], line.partition("{")[2].partition("}")[0], float(line.rsplit(" ", 1)[1])) for line in lines]

    def requests(self):
        """How many requests of each kind it has answered."""
        counts = {}
        for name, labels, value in self.metrics():
            if name == "SeaweedFS_s3_request_total":
                kind = labels.partition('type="')[2].partition('"')[0]
                counts[kind] = counts.get(kind, 0) + value
        return counts

    def away(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def back(self):
        os.kill(self.process.pid, signal.SIGCONT)

    @property
    def objects(self):
        """Where its objects are, by their keys."""
        return f"{self.endpoint}/{BUCKET}/{PREFIX}"

    def get(self, key):
        return get_object(self.objects, key)

    def list_keys(self, folder):
        query = urllib.parse.urlencode({"list-type": 2, "prefix": f"{PREFIX}/{folder}"})
        with urllib.request.urlopen(f"{self.endpoint}/{BUCKET}?{query}", timeout=30) as answer:
            found = [item.text for item in xml.fromstring(answer.read()).iter() if item.tag.endswith("}Key") or item.tag == "Key"]
        return sorted(key.removeprefix(f"{PREFIX}/") for key in found)


class Azure(Store):
    """Azurite, which takes the account that its documentation tells."""

    account, key = "devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    url = f"az://{BUCKET}/{PREFIX}"

    @property
    def environment(self):
        # The paths of an emulator begin with the account's name.
        return {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": f"http://{self.host}:{self.port}"}

    @property
    def endpoint(self):
        return f"http://{self.host}:{self.port}/{self.account}"

    def start(self):
        azurite = CACHE / "azurite" / "node_modules" / ".bin" / "azurite-blob"
        # It knows fewer versions of the API than clients ask for.
        self.process = spawn([azurite, "--location", self.dir, "--blobHost", self.host, "--blobPort", self.port, "--silent",
                              "--skipApiVersionCheck", "--disableTelemetry"], self.log)
        wait_until(lambda: self.status("PUT", "", restype="container") in (201, 409), 60, "Azurite")

    def signed(self, method, path, query, **headers):
        """A request for a path below the container, with the account's signature."""
        headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"} | headers
        resource = f"/{self.account}/{self.account}/{BUCKET}{path}" + "".join(f"\n{k}:{v}" for k, v in sorted(query.items()))
        canonical = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
        text = "\n".join([method, *[""] * 11, canonical + resource])
        signature = base64.b64encode(hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()).decode()
        words = f"?{urllib.parse.urlencode(query)}" if query else ""
        return urllib.request.Request(f"{self.endpoint}/{BUCKET}{path}{words}", method=method,
                                      headers=headers | {"Authorization": f"SharedKey {self.account}:{signature}"})

    def status(self, method, path, **query):
        try:
            with urllib.request.urlopen(self.signed(method, path, query), timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def get(self, key):
        with urllib.request.urlopen(self.signed("GET", f"/{PREFIX}/{urllib.parse.quote(key)}", {}), timeout=30) as answer:
            return answer.read()

    def list_keys(self, folder):
        found, marker = [], ""
        while True:
            query = {"restype": "container", "comp": "list", "prefix": f"{PREFIX}/{folder}"} | ({"marker": marker} if marker else {})
            with urllib.request.urlopen(self.signed("GET", "", query), timeout=30) as answer:
                page = xml.fromstring(answer.read())
            found += [item.text for item in page.iter("Name") if item.text != BUCKET]
            marker = page.findtext("NextMarker")
            if not marker:
                return sorted(key.removeprefix(f"{PREFIX}/") for key in found)


STORES = {"s3": Store, "azure": Azure}
