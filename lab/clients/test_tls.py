"""TLS: clients of each language, client certificates, refusals that say why, renewal, and a cluster
whose every connection is private."""

import re
import subprocess

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import KafkaConsumer, KafkaProducer

from labkit.broker import tidemark, tool
from labkit.paths import LAB, TIDEMARK, free_port, unique, wait_until

pytestmark = pytest.mark.ours


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


class Authority:
    """Signs certificates, in files below a folder."""

    def __init__(self, folder, name="ca"):
        self.folder, self.name = folder, name
        self.pem, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/CN={name}",
                "-keyout", self.key, "-out", self.pem)

    def issue(self, name, san="IP:127.0.0.1,DNS:localhost", days=30):
        """One file with certificate and key, as ssl.keystore.location takes it."""
        key, request, out, extensions = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem", "ext"))
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/O=lab/CN={name}", "-keyout", key, "-out", request)
        extensions.write_text(f"subjectAltName={san}\n")
        openssl("x509", "-req", "-in", request, "-CA", self.pem, "-CAkey", self.key, "-CAcreateserial", "-days", days,
                "-extfile", extensions, "-out", out)
        out.write_text(out.read_text() + key.read_text())
        return out


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls_broker(own_broker, authority):
    """A broker with a listener of TLS; `auth` is ssl.client.auth."""

    def make(auth="none", shown=None, **more):
        port = free_port()
        broker = own_broker(settings={
            "listeners": f"SSL://127.0.0.1:{port}",
            "ssl.keystore.type": "PEM", "ssl.keystore.location": shown or authority.issue("broker"),
            "ssl.truststore.type": "PEM", "ssl.truststore.location": authority.pem,
            "ssl.client.auth": auth, **more,
        })
        broker.port = port
        return broker

    return make


def librdkafka(broker, authority, user=None):
    of_user = {"ssl.certificate.location": str(user), "ssl.key.location": str(user)} if user else {}
    return {"bootstrap.servers": broker.bootstrap, "security.protocol": "ssl", "ssl.ca.location": str(authority.pem),
            "log_level": 0, **of_user}


def java(folder, authority, user=None):
    """A file for --command-config of Kafka's tools and ours."""
    path = folder / f"{unique()}.properties"
    lines = ["security.protocol=SSL", "ssl.truststore.type=PEM", f"ssl.truststore.location={authority.pem}"]
    if user:
        lines += ["ssl.keystore.type=PEM", f"ssl.keystore.location={user}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def round_trip(config, topic, value=b"private"):
    producer = Producer({**config, "message.timeout.ms": 20000})
    failed = []
    producer.produce(topic, value, on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(25) == 0 and not failed, failed
    consumer = Consumer({**config, "group.id": unique(), "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        got = wait_until(lambda: consumer.poll(0.5), 30, "the record coming back")
        assert got.error() is None and got.value() == value
    finally:
        consumer.close()


def test_clients_of_each_language(tls_broker, authority, tmp_path):
    broker = tls_broker()
    topic = unique()
    config = librdkafka(broker, authority)
    round_trip(config, topic)

    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, security_protocol="SSL", ssl_cafile=str(authority.pem))
    producer.send(topic, b"from python").get(20)
    producer.close()
    consumer = KafkaConsumer(topic, bootstrap_servers=broker.bootstrap, security_protocol="SSL",
                             ssl_cafile=str(authority.pem), auto_offset_reset="earliest", consumer_timeout_ms=10000)
    assert [next(consumer).value, next(consumer).value] == [b"private", b"from python"]
    consumer.close()

    of_kcat = [f"-X{name}={value}" for name, value in config.items() if name != "bootstrap.servers"]
    done = subprocess.run(["kcat", "-C", "-q", "-e", "-b", broker.bootstrap, "-t", topic, *of_kcat],
                          capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines() == ["private", "from python"], done.stderr

    settings = java(tmp_path, authority)
    out = tool("TopicCommand", "--bootstrap-server", broker.bootstrap, "--command-config", settings,
               "--describe", "--topic", topic)
    assert "PartitionCount: 1" in out
    out = tool("ConsoleConsumer", "--bootstrap-server", broker.bootstrap, "--topic", topic,
               "--command-config", settings, "--from-beginning", "--max-messages", 2)
    assert out.splitlines() == ["private", "from python"]

    script = f"""
      const {{ Kafka, logLevel }} = require('kafkajs');
      const kafka = new Kafka({{ brokers: ['{broker.bootstrap}'], logLevel: logLevel.ERROR,
        ssl: {{ ca: [require('fs').readFileSync('{authority.pem}')] }} }});
      (async () => {{
        const producer = kafka.producer();
        await producer.connect();
        await producer.send({{ topic: '{topic}', messages: [{{ value: 'from node' }}] }});
        await producer.disconnect();
      }})();
    """
    subprocess.run(["node", "-e", script], check=True, timeout=60)

    out = tidemark("--command-config", settings, "-b", broker.bootstrap, "consume", topic, "--count", 3)
    assert "from node" in out


def test_large_answers_go_through(tls_broker, authority):
    """Records of many megabytes: what is sent from files elsewhere is encrypted here."""
    broker = tls_broker()
    topic = unique()
    config = librdkafka(broker, authority)
    admin = AdminClient(config)
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
    producer = Producer({**config, "message.timeout.ms": 30000, "linger.ms": 20})
    value = bytes(range(256)) * 256
    for at in range(400):
        producer.produce(topic, at.to_bytes(4, "big") + value)
        producer.poll(0)
    assert producer.flush(60) == 0
    consumer = KafkaConsumer(topic, bootstrap_servers=broker.bootstrap, security_protocol="SSL",
                             ssl_cafile=str(authority.pem), auto_offset_reset="earliest", consumer_timeout_ms=20000,
                             check_crcs=True)
    for at in range(400):
        assert next(consumer).value == at.to_bytes(4, "big") + value
    consumer.close()


def test_a_client_certificate_is_asked_for(tls_broker, authority, tmp_path):
    broker = tls_broker(auth="required")
    topic = unique()
    user = authority.issue("billing")
    round_trip(librdkafka(broker, authority, user), topic)
    assert topic in tidemark("--command-config", java(tmp_path, authority, user), "-b", broker.bootstrap, "topic", "list")

    with pytest.raises(KafkaException):
        AdminClient(librdkafka(broker, authority)).list_topics(timeout=5)
    wait_until(lambda: "the client shows no certificate" in broker.log(), 10, "the reason in the log")
    # librdkafka keeps a certificate back that the broker will not trust; ours shows it.
    stranger = Authority(tmp_path, "stranger").issue("mallory")
    done = tidemark("--command-config", java(tmp_path, authority, stranger), "-b", broker.bootstrap, "--timeout", "5s", "topic",
                    "list", check=False)
    assert done.returncode == 3, done.stderr
    wait_until(lambda: "signed by an authority that is not in the trust store" in broker.log(), 10, "the reason in the log")


@pytest.mark.parametrize("broken, said", [
    ("expired", "certificate has expired"),
    ("wrong host", "is not for 127.0.0.1"),
    ("unknown authority", "not in the trust store"),
])
def test_a_broker_that_cannot_be_trusted(tls_broker, authority, tmp_path, broken, said):
    shown = {
        "expired": lambda: authority.issue("expired", days=-1),
        "wrong host": lambda: authority.issue("elsewhere", san="DNS:elsewhere.example"),
        "unknown authority": lambda: Authority(tmp_path, "other").issue("other-broker"),
    }[broken]()
    broker = tls_broker(shown=shown)
    done = tidemark("--command-config", java(tmp_path, authority), "-b", broker.bootstrap, "--timeout", "5s", "topic", "list",
                    check=False)
    assert done.returncode == 3 and said in done.stderr, done.stderr
    with pytest.raises(KafkaException):
        AdminClient(librdkafka(broker, authority)).list_topics(timeout=5)


def test_plain_text_is_told_apart(tls_broker, authority, own_broker, tmp_path):
    broker = tls_broker()
    with pytest.raises(KafkaException):
        AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=3)
    wait_until(lambda: "speaks PLAINTEXT to a listener of SSL" in broker.log(), 10, "the reason in the log")
    plain = own_broker()
    done = tidemark("--command-config", java(tmp_path, authority), "-b", plain.bootstrap, "--timeout", "5s", "topic", "list",
                    check=False)
    assert done.returncode == 3, done.stderr
    wait_until(lambda: "TLS" in plain.log(), 10, "the reason in the log")


def test_a_renewed_certificate_is_shown_without_a_restart(tls_broker, authority, tmp_path):
    """Old connections go on; the next ones see the new certificate, of a new authority."""
    shown = tmp_path / "shown.pem"
    shown.write_text(authority.issue("old").read_text())
    broker = tls_broker(shown=shown)
    topic = unique()
    producer = Producer({**librdkafka(broker, authority), "message.timeout.ms": 20000})
    failed = []

    def send():
        producer.produce(topic, b"x", on_delivery=lambda error, _: failed.append(error) if error else None)
        assert producer.flush(25) == 0 and not failed, failed

    send()
    renewed = Authority(tmp_path, "renewed")
    shown.write_text(renewed.issue("new").read_text())
    wait_until(lambda: "new certificates are in use" in broker.log(), 30, "the renewal")
    send()
    round_trip(librdkafka(broker, renewed), topic, b"x")
    send()

    shown.write_text("nonsense")
    wait_until(lambda: "the certificates before stay in use" in broker.log(), 30, "the complaint")
    round_trip(librdkafka(broker, renewed), topic, b"x")


def test_java_stores_are_refused_with_the_way_out(authority):
    done = subprocess.run([TIDEMARK, "dev", "--set", f"listeners=SSL://127.0.0.1:{free_port()}", "--set",
                           "ssl.keystore.location=/etc/broker.jks"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and "ssl.keystore.type=PEM" in done.stderr and "openssl" in done.stderr, done.stderr


def test_a_cluster_all_of_whose_connections_are_private(authority, tmp_path):
    shown = authority.issue("node")
    data, listen = tmp_path / "data", free_port()
    command = [TIDEMARK, "dev", "--brokers", "3", "--listen", f"127.0.0.1:{listen}", "--data", data]
    for name, value in {
        "listener.security.protocol.map": "PLAINTEXT:SSL,CONTROLLER:SSL",
        "ssl.client.auth": "required", "ssl.keystore.type": "PEM", "ssl.keystore.location": shown,
        "ssl.truststore.type": "PEM", "ssl.truststore.location": authority.pem,
    }.items():
        command += ["--set", f"{name}={value}"]
    log = tmp_path / "log"
    with open(log, "wb") as out:
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        def ready():
            assert process.poll() is None, log.read_text()
            return re.search(r"\bready\b", log.read_text())

        wait_until(ready, 60, "three brokers being ready")
        settings = java(tmp_path, authority, shown)
        of_cluster = ["--command-config", settings, "-b", f"127.0.0.1:{listen}"]
        tidemark(*of_cluster, "topic", "create", "orders", "--partitions", 6, "--replicas", 3)
        config = {"bootstrap.servers": f"127.0.0.1:{listen}", "security.protocol": "ssl",
                  "ssl.ca.location": str(authority.pem), "ssl.certificate.location": str(shown), "ssl.key.location": str(shown)}
        for at in range(6):
            round_trip(config, "orders", b"x")
        assert "no TLS came about" not in log.read_text(), log.read_text()
    finally:
        process.terminate()
        process.wait(30)
