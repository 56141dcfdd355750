"""Cases of e2e.py about TLS and about clients from outside of the pods' network."""

import base64
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import time

from kube import Failed, expect, run, until

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = str(HERE / "../.cache/venv/bin/python")
# Of cert-manager, from its module.
DEFINITIONS = str(HERE / "../.cache/kubernetes/cert-manager.yaml")
NAME = "secure"
# What is known of the certificates of an authority that is about to change.
SHORT = {"caOverlap": "1s"}
LISTENERS = [
    {"name": "client", "port": 9092},
    {"name": "outside", "port": 9094, "type": "NodePort", "tls": {}},
    {"name": "mutual", "port": 9095, "type": "NodePort", "tls": {},
     "authentication": [{"type": "MutualTLS", "caSecretRef": {"name": "clients"}}]},
    {"name": "cloud", "port": 9096, "type": "LoadBalancer", "tls": {"source": "Secret", "secretRef": {"name": "cloud"}}},
]


def openssl(*arguments, **more):
    return run("openssl", *map(str, arguments), **more)


class Authority:
    """Signs certificates, in files below a folder."""

    def __init__(self, folder, name):
        self.folder, self.pem, self.key = folder, folder / f"{name}.pem", folder / f"{name}.key"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 30,
                "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.pem)

    def issue(self, name, san):
        key, request, out, extensions = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem", "ext"))
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/O=lab/CN={name}",
                "-keyout", key, "-out", request)
        extensions.write_text(f"subjectAltName={san}\n")
        openssl("x509", "-req", "-in", request, "-CA", self.pem, "-CAkey", self.key, "-CAcreateserial", "-days", 30,
                "-extfile", extensions, "-out", out)
        return out, key


def secret(name, **files):
    data = {key.replace("_", "."): base64.b64encode(pathlib.Path(path).read_bytes()).decode() for key, path in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


class World:
    """The cluster of these cases, and what its clients need."""

    def __init__(self, space, folder):
        self.space, self.folder = space, folder
        self.clients = Authority(folder, "clients")
        self.user = self.clients.issue("billing", "DNS:billing")
        self.stranger = Authority(folder, "strangers").issue("mallory", "DNS:mallory")
        theirs = Authority(folder, "theirs")
        self.theirs = theirs
        chain, key = theirs.issue("cloud", "IP:10.210.0.11,IP:10.210.0.12,IP:10.210.0.13,DNS:kafka.lab")
        space.apply(secret("clients", ca_crt=self.clients.pem), secret("cloud", tls_crt=chain, tls_key=key))

    def trust(self, name="trust.pem"):
        """What clients are told to trust now, in a file."""
        path = self.folder / name
        path.write_text(self.space.get("configmap", f"{NAME}-trust")["data"]["ca.crt"])
        return path

    def status(self, listener):
        status = self.space.get("tmc", NAME)["status"]
        return next(one for one in status["listeners"] if one["name"] == listener)

    def settings(self, listener, ca, user=None):
        of_user = {"ssl.certificate.location": str(user[0]), "ssl.key.location": str(user[1])} if user else {}
        return {"bootstrap.servers": self.status(listener)["bootstrap"], "security.protocol": "ssl",
                "ssl.ca.location": str(ca), "log_level": 0, **of_user}

    def client(self, settings, *command, **more):
        return subprocess.run([PYTHON, str(HERE / "outside_client.py"), *command], capture_output=True, text=True, timeout=90,
                              env={**os.environ, "LAB_CLIENT": json.dumps(settings)}, check=False, **more)

    def round_trip(self, settings):
        done = self.client(settings, "round-trip", "greetings")
        if done.returncode:
            raise Failed(f"a stock client, {settings}: {done.stderr.strip()}")

    def pod_ip(self, id_):
        return self.space.get("pod", f"{NAME}-{id_}-0")["status"]["podIP"]

    def log(self):
        return "".join(self.space.kubectl("logs", f"{NAME}-{id_}-0", "-c", "broker").stdout for id_ in range(3))

    def refused(self, says, address, *shown):
        """Begins TLS by hand; the log has to name the reason."""
        before = self.log().count(says)
        openssl("s_client", "-connect", address, *shown, text="", check=False, timeout=20)
        until(f"'{says}' in a log", 20, lambda: self.log().count(says) > before)

    def serial(self, address):
        """The serial number of the certificate that is shown there."""
        done = openssl("s_client", "-connect", address, text="", check=False, timeout=20)
        return openssl("x509", "-noout", "-serial", text=done.stdout).stdout.strip()

    def renewed(self, id_, port, renew):
        """Has a broker's certificate renewed, and waits until it shows another one."""
        address = f"{self.pod_ip(id_)}:{port}"
        old, from_ = self.serial(address), time.monotonic()
        renew()
        until("another certificate is shown", 120, lambda: self.serial(address) not in ("", old))
        print(f"         broker {id_} shows another certificate after {time.monotonic() - from_:.0f} s")

    def restarts(self):
        pods = [self.space.get("pod", f"{NAME}-{id_}-0") for id_ in range(3)]
        return [(pod["metadata"]["uid"], [c["restartCount"] for c in pod["status"]["containerStatuses"]]) for pod in pods]


@contextlib.contextmanager
def world(space, cluster):
    with tempfile.TemporaryDirectory(prefix="secure-") as folder:
        new = World(space, pathlib.Path(folder))
        space.apply(cluster(NAME, replicas=3, voters=3, listeners=LISTENERS, certificates=SHORT))
        space.is_("tmc", NAME, "Ready", "True", 120)
        until("all brokers", 120, lambda: space.get("tmc", NAME)["status"]["ready"] == "3/3")
        until("nodes' addresses", 60, lambda: all("pending" not in new.status(name) for name in ("outside", "mutual")))
        # Brokers follow their files: each is found at the address of its node.
        until("a stock client", 120, lambda: new.client(new.settings("outside", new.trust()), "round-trip", "greetings").returncode == 0)
        yield new


def listeners(space, cluster):
    """NodePort from outside of the pods' network; a pending load balancer holds up its own listener alone, and is advertised live."""
    with world(space, cluster) as it:
        before = it.restarts()
        it.round_trip(it.settings("outside", it.trust()))
        expect("the condition", space.condition("tmc", NAME, "ListenersReady"), ("False", "AddressPending"))
        expect("Reconciled", space.condition("tmc", NAME, "Reconciled")[0], "True")
        if not it.status("cloud").get("pending"):
            raise Failed("the load balancer's listener is not pending")
        # As a cloud would: an address for each, here those of the nodes, where a pod's port is found by its node port.
        for name in [f"{NAME}-{id_}-cloud" for id_ in range(3)] + [f"{NAME}-cloud-bootstrap"]:
            host = next(p for p in space.get("pods") if p["metadata"]["name"].startswith(NAME))["status"]["hostIP"]
            space.patch("service", name, {"status": {"loadBalancer": {"ingress": [{"ip": host}]}}}, "--subresource=status")
        space.is_("tmc", NAME, "ListenersReady", "True", 60)
        until("brokers tell of it", 120, lambda: all(
            json.loads(space.kubectl("get", "--raw", f"/api/v1/namespaces/{space.name}/pods/{NAME}-{id_}-0:8080/proxy/state").stdout)
            ["listeners"]["CLOUD"]["advertised"] for id_ in range(3)))
        expect("restarts", it.restarts(), before)
        # Of three brokers each has its own place, and clients are told of all of them.
        places = {space.get("pod", f"{NAME}-{id_}-0")["status"]["hostIP"] for id_ in range(3)}
        if len(places) < 2:
            raise Failed(f"all brokers are on one node: {places}")
        # A listener that goes takes its Services with it.
        names = {service["metadata"]["name"] for service in space.get("services")}
        space.patch("tmc", NAME, {"spec": {"listeners": [one for one in LISTENERS if one["name"] != "cloud"]}})
        until("Services that go", 60, lambda: not any("cloud" in s["metadata"]["name"] for s in space.get("services")))
        expect("Services of it before", sum("cloud" in name for name in names), 4)
        space.is_("tmc", NAME, "Reconciled", "True", 240)
    space.kubectl("delete", "tmc", NAME)


def tls(space, cluster):
    """Stock clients by TLS and with certificates of their own; refusals say why; leaf and authority change under traffic without a restart."""
    with world(space, cluster) as it:
        first = it.trust("first.pem")
        mutual = it.status("mutual")["bootstrap"]
        it.round_trip(it.settings("mutual", first, it.user))
        java_tools(it, first)
        it.refused("the client shows no certificate", mutual)
        it.refused("signed by an authority that is not in the trust store", mutual, "-cert", it.stranger[0], "-key", it.stranger[1])
        # Among brokers: nobody without a certificate of the cluster's, be it by TLS or in plain text.
        it.refused("the client shows no certificate", f"{it.pod_ip(0)}:9091")
        it.refused("signed by an authority that is not in the trust store", f"{it.pod_ip(0)}:9090",
                   "-cert", it.user[0], "-key", it.user[1])
        with socket.create_connection((it.pod_ip(0), 9091), timeout=5) as plain:
            plain.sendall(b"\0\0\0\x14\0\x12\0\3\0\0")
            until("plain text is told apart", 20, lambda: "speaks PLAINTEXT to a listener of SSL" in it.log())
        wrong = it.settings("outside", it.theirs.pem)
        if it.client(wrong, "round-trip", "greetings").returncode == 0:
            raise Failed("a client believed an authority that it does not know")
        until("the reason in a log", 20, lambda: "does not trust the authority that signed this end's certificate" in it.log())
        for name in ("authority", "1-tls"):
            expect(f"Secret {NAME}-{name} is no pod's but its own", mounted(space, f"{NAME}-{name}"), [] if name == "authority" else [f"{NAME}-1-0"])

        before, address = it.restarts(), f"{it.pod_ip(1)}:9094"
        with traffic(it, it.settings("outside", first)):
            it.renewed(1, 9094, lambda: space.kubectl("delete", "secret", f"{NAME}-1-tls"))
            new = it.serial(address)
            from_ = time.monotonic()
            space.kubectl("annotate", "tmc", NAME, "tidemark.dev/renew-authority=1")
            until("two are trusted", 60, lambda: it.trust().read_text().count("BEGIN") == 2)
            both = it.trust("both.pem")
            until("the next one signs, and the one before is forgotten", 300,
                  lambda: it.trust().read_text().count("BEGIN") == 1 and it.trust().read_text() != first.read_text())
            until("it is shown", 60, lambda: it.serial(address) != new)
            print(f"         the authority was changed in {time.monotonic() - from_:.0f} s")
            # Whoever was told in time never notices.
            it.round_trip(it.settings("outside", both))
        it.round_trip(it.settings("outside", it.trust()))
        if it.client(it.settings("outside", first), "round-trip", "greetings").returncode == 0:
            raise Failed("the authority before is believed still")
        expect("restarts", it.restarts(), before)
        space.is_("tmc", NAME, "CertificatesValid", "Issued", 60)
        # A Secret that is not good takes nothing from what was.
        space.patch("secret", "cloud", {"data": {"tls.crt": base64.b64encode(b"nonsense").decode()}})
        space.is_("tmc", NAME, "CertificatesValid", "SecretRefused", 90)
        if "Secret cloud: tls.crt" not in json.dumps(space.get("tmc", NAME)["status"]["conditions"]):
            raise Failed("the Secret is not named")
        expect("brokers", space.get("tmc", NAME)["status"]["ready"], "3/3")
    space.kubectl("delete", "tmc", NAME)


def cert_manager(space, cluster):
    """cert-manager's own controllers sign; what hinders them is told and holds up nothing else; what they renew is taken under traffic."""
    # As it is where cert-manager is not installed; definitions may be there from an earlier run.
    run("kubectl", "delete", "--ignore-not-found", "-f", DEFINITIONS)
    listener = {"name": "outside", "port": 9094, "type": "NodePort", "tls": {"source": "CertManager", "issuerRef": {"name": "acme"}}}
    certificate = lambda id_: f"{NAME}-{id_}-outside-tls"

    def told(text):
        def holds():
            conditions = space.get("tmc", NAME)["status"]["conditions"]
            return any(c["type"] == "CertificatesValid" and c["status"] == "False" and text in c["message"] for c in conditions)
        until(f"CertificatesValid says '{text}'", 90, holds)

    def renew():
        """What `cmctl renew` does."""
        status = space.get("certificate", certificate(1))["status"]
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        issuing = {"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "renewed by hand", "lastTransitionTime": now}
        space.patch("certificate", certificate(1), {"status": {"conditions": [*status["conditions"], issuing]}}, "--subresource=status")

    with tempfile.TemporaryDirectory(prefix="secure-") as folder:
        it = World(space, pathlib.Path(folder))
        space.apply(cluster(NAME, replicas=3, voters=3, listeners=[LISTENERS[0], listener]))
        told("cert-manager is not installed")
        until("all brokers", 120, lambda: space.get("tmc", NAME)["status"]["ready"] == "3/3")
        run("kubectl", "apply", "--server-side", "-f", DEFINITIONS)
        run("kubectl", "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        told("does its controller run?")
        with controllers():
            told('issuer.cert-manager.io "acme" not found. If that stays, mend Issuer acme')
            # It holds up nobody else.
            space.is_("tmc", NAME, "Ready", "True", 60)
            space.is_("tmc", NAME, "Reconciled", "True", 60)
            space.tidemark(NAME, "produce", "greetings", "--create", text="hello\n")
            signed(space)
            until("Certificates are Ready", 90, lambda: all(ready(space, certificate(id_)) for id_ in range(3)))
            space.is_("tmc", NAME, "CertificatesValid", "Issued", 60)
            ca = it.folder / "acme.pem"
            ca.write_bytes(base64.b64decode(space.get("secret", "acme")["data"]["tls.crt"]))
            settings = {**it.settings("outside", ca), "ssl.endpoint.identification.algorithm": "https"}
            until("brokers show theirs", 120, lambda: it.client(settings, "round-trip", "greetings").returncode == 0)
            it.round_trip(settings)
            if it.client(it.settings("outside", it.trust()), "round-trip", "greetings").returncode == 0:
                raise Failed("a certificate of cert-manager's is of the cluster's own authority")
            before = it.restarts()
            with traffic(it, settings):
                it.renewed(1, 9094, renew)
                it.renewed(2, 9094, lambda: space.kubectl("delete", "secret", certificate(2)))
            it.round_trip(settings)
            expect("restarts", it.restarts(), before)
            space.is_("tmc", NAME, "CertificatesValid", "Issued", 60)
            # Nobody renews what is asked for no more.
            space.patch("tmc", NAME, {"spec": {"listeners": [LISTENERS[0], {**listener, "tls": {}}]}})
            until("Certificates go", 60, lambda: not [c for c in space.get("certificates") if c["metadata"]["name"].startswith(NAME)])
            space.kubectl("delete", "tmc", NAME)
            run("kubectl", "delete", "-f", DEFINITIONS)
        # As cert-manager has it, Secrets stay.
        space.kubectl("delete", "secret", "acme", *map(certificate, range(3)))


def signed(space):
    """An authority that signs itself, and the issuer that signs by it."""
    kind = lambda kind, name, spec: {"apiVersion": "cert-manager.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    space.apply(
        kind("Issuer", "itself", {"selfSigned": {}}),
        kind("Certificate", "acme", {"isCA": True, "commonName": "acme", "secretName": "acme", "issuerRef": {"name": "itself"}}),
        kind("Issuer", "acme", {"ca": {"secretName": "acme"}}))


def ready(space, certificate):
    conditions = space.get("certificate", certificate)["status"]["conditions"]
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


@contextlib.contextmanager
def controllers():
    """cert-manager's controllers, at work meanwhile."""
    config = os.environ["KUBECONFIG"]
    log = pathlib.Path(config).parent / "log/cert-manager.log"
    with log.open("a") as out:
        process = subprocess.Popen(["cert-manager", "-kubeconfig", config], stdout=out, stderr=out)
    try:
        yield
        if process.poll() is not None:
            raise Failed(f"cert-manager has ended: {log}")
    finally:
        process.terminate()
        process.wait(30)


def mounted(space, name):
    """The pods that have a Secret."""
    pods = space.get("pods")
    has = lambda pod: any(volume.get("secret", {}).get("secretName") == name for volume in pod["spec"].get("volumes", []))
    return [pod["metadata"]["name"] for pod in pods if has(pod)]


def java_tools(it, ca):
    """Kafka's own tools, which are in Java."""
    settings = it.folder / "client.properties"
    settings.write_text(f"security.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.location={ca}\n")
    kafka = HERE / "../.cache/kafka"
    command = ["java", "-cp", f"{kafka}/libs/*", "org.apache.kafka.tools.TopicCommand", "--bootstrap-server",
               it.status("outside")["bootstrap"], "--command-config", str(settings), "--describe", "--topic", "greetings"]
    out = run(*command, timeout=120).stdout
    if not re.search(r"PartitionCount: *\d", out):
        raise Failed(f"Kafka's own tool: {out}")


@contextlib.contextmanager
def traffic(it, settings):
    """A stock producer with acks=all that is at work meanwhile; none of its records may fail, none of its connections end."""
    process = subprocess.Popen([PYTHON, str(HERE / "outside_client.py"), "produce", "greetings"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "LAB_CLIENT": json.dumps(settings)})
    try:
        yield
    except BaseException:
        process.kill()
        process.communicate()
        raise
    out, err = process.communicate(timeout=180)
    told = json.loads(out or "{}")
    if process.returncode or told.get("failed") or told["acknowledged"] != told["sent"] or told["disconnects"]:
        raise Failed(f"a producer meanwhile: {told or err}")
    print(f"         {told['acknowledged']} records were acknowledged meanwhile, none failed, no connection was lost")
