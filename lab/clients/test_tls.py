"""TLS: clients of each language, client certificates, refusals that say why, renewal, and a cluster
whose every connection is private."""

import asyncio
import logging
import re
import ssl
import subprocess

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import KafkaConsumer, KafkaProducer

from labkit.broker import tidemark, tool
from labkit.paths import CACHE, TIDEMARK, free_port, unique, wait_until

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


# A client of each language: writes a record and reads it over TLS, and raises what it says where it does not come to that.

def with_librdkafka(broker, topic, trusted, user, folder):
    said = []
    config = librdkafka(broker, trusted, user)
    # What is wrong it tells whoever polls.
    asking = Producer({**config, "error_cb": lambda error: said.append(error.str())})
    try:
        asking.list_topics(timeout=4)
    except KafkaException:
        wait_until(lambda: asking.poll(0.1) or said, 5, "the reason")
        raise Refused(" ".join(said)) from None
    round_trip(config, topic)


def with_aiokafka(broker, topic, trusted, user, folder):
    context = ssl.create_default_context(cafile=str(trusted.pem))
    if user:
        context.load_cert_chain(user)
    of_both = {"bootstrap_servers": broker.bootstrap, "security_protocol": "SSL", "ssl_context": context}

    async def work():
        async with AIOKafkaProducer(**of_both) as producer:
            await producer.send_and_wait(topic, b"private")
        async with AIOKafkaConsumer(topic, auto_offset_reset="earliest", **of_both) as consumer:
            assert (await asyncio.wait_for(consumer.getone(), 20)).value == b"private"

    # What is wrong it says in its log alone.
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("aiokafka").addHandler(handler)
    try:
        asyncio.run(work())
    except KafkaConnectionError as error:
        raise Refused(f"{error} {said}") from None
    finally:
        logging.getLogger("aiokafka").removeHandler(handler)


def with_kafkajs(broker, topic, trusted, user, folder):
    own = f"const own = require('fs').readFileSync('{user}');" if user else ""
    script = f"""
      const {{ Kafka, logLevel }} = require('kafkajs'); {own}
      const kafka = new Kafka({{ brokers: ['{broker.bootstrap}'], logLevel: logLevel.NOTHING, retry: {{ retries: {0 if folder else 5} }},
        ssl: {{ ca: [require('fs').readFileSync('{trusted.pem}')]{", cert: own, key: own" if user else ""} }} }});
      (async () => {{
        const producer = kafka.producer();
        await producer.connect();
        await producer.send({{ topic: '{topic}', messages: [{{ value: 'private' }}] }});
        await producer.disconnect();
        const consumer = kafka.consumer({{ groupId: '{unique()}' }});
        await consumer.connect();
        await consumer.subscribe({{ topic: '{topic}', fromBeginning: true }});
        await consumer.run({{ eachMessage: async ({{ message }}) => {{
          console.log(message.value.toString());
          setImmediate(() => consumer.disconnect().then(() => process.exit(0)));
        }} }});
      }})().catch((error) => {{ console.error(error.message); process.exit(1); }});
    """
    run_client(["node", "-e", script], "private")


def with_java(broker, topic, trusted, user, folder):
    settings = java(folder, trusted, user)
    with open(settings, "a") as file:
        file.write("request.timeout.ms=5000\ndefault.api.timeout.ms=6000\nmax.block.ms=6000\nretries=5\n")
    done = tool("TopicCommand", "--bootstrap-server", broker.bootstrap, "--command-config", settings, "--list", check=False)
    if done.returncode != 0:
        raise Refused(done.stdout + done.stderr)
    tool("ConsoleProducer", "--bootstrap-server", broker.bootstrap, "--topic", topic, "--command-config", settings, stdin="private\n")
    out = tool("ConsoleConsumer", "--bootstrap-server", broker.bootstrap, "--topic", topic, "--command-config", settings,
               "--from-beginning", "--max-messages", 1)
    assert "private" in out


def with_franz_go(broker, topic, trusted, user, folder):
    run_client([CACHE / "go" / "lab-go", broker.bootstrap, topic, trusted.pem, *([user] if user else [])], "from go")


def run_client(command, says):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise Refused(done.stdout + done.stderr)
    assert says in done.stdout


class Refused(Exception):
    """What a client says that did not get a connection."""


LANGUAGES = {"java": with_java, "librdkafka": with_librdkafka, "kafkajs": with_kafkajs, "aiokafka": with_aiokafka,
             "franz-go": with_franz_go}


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_by_certificate(tls_broker, authority, tmp_path, language):
    """Both ends prove who they are; a client without a certificate, or with one that has expired or that nobody
    knows, is turned away, and the log says which."""
    broker = tls_broker(auth="required")
    speak = LANGUAGES[language]
    speak(broker, unique(), authority, authority.issue(f"{language}-user"), tmp_path)
    # Some keep a certificate back that the broker will not trust.
    none, unknown = "shows no certificate", "signed by an authority that is not in the trust store"
    for user, logged in ((None, none), (authority.issue(f"{language}-late", days=-1), "the client's certificate has expired"),
                         (Authority(tmp_path, "stranger").issue("mallory"), f"{none}|{unknown}")):
        before = len(broker.log())
        with pytest.raises(Refused):
            speak(broker, unique(), authority, user, tmp_path)
        wait_until(lambda: re.search(logged, broker.log()[before:]), 10, f"'{logged}' in the log")


# What each says of a broker's certificate that has expired, is for another host, or of an unknown authority.
EXPIRED, HOST, AUTHORITY = "expired", "wrong host", "unknown authority"
SAID = {
    "java": {EXPIRED: "SSL handshake failed|expired|validity", HOST: "SSL handshake failed|No subject alternative|No name matching",
             AUTHORITY: "SSL handshake failed|unable to find valid certification path"},
    "librdkafka": {EXPIRED: "certificate verify failed", HOST: "certificate verify failed", AUTHORITY: "certificate verify failed"},
    "kafkajs": {EXPIRED: "expired", HOST: "IP: 127.0.0.1 is not in the cert's list", AUTHORITY: "unable to verify|local issuer"},
    "aiokafka": {EXPIRED: "expired", HOST: "IP address mismatch", AUTHORITY: "unable to get local issuer"},
    "franz-go": {EXPIRED: "expired", HOST: "cannot validate certificate for 127.0.0.1|doesn't contain any IP SANs", AUTHORITY: "unknown authority"},
}
# What the broker can tell of it: what it knows of itself, and what a client says. aiokafka and kafkajs only go away.
GOES = "ended the connection during the handshake: it may not speak TLS here, or not trust this certificate"
TOLD = {EXPIRED: "the certificate that this broker shows has expired",
        HOST: f"does not accept this end's certificate|{GOES}",
        AUTHORITY: f"does not trust the authority|does not accept this end's certificate|{GOES}"}


@pytest.mark.parametrize("broken", TOLD)
@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_refuses_a_broker(tls_broker, authority, tmp_path, language, broken):
    shown = {
        EXPIRED: lambda: authority.issue("expired", days=-1),
        HOST: lambda: authority.issue("elsewhere", san="DNS:elsewhere.example"),
        AUTHORITY: lambda: Authority(tmp_path, "other").issue("other-broker"),
    }[broken]()
    broker = tls_broker(shown=shown)
    with pytest.raises(Refused, match=f"(?is){SAID[language][broken]}"):
        LANGUAGES[language](broker, unique(), authority, None, tmp_path)
    # kafkajs looks at the name when the handshake is over, and says nothing to the broker.
    if (language, broken) != ("kafkajs", HOST):
        wait_until(lambda: re.search(TOLD[broken], broker.log()), 10, f"'{TOLD[broken]}' in the log")


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
    data, listen = tmp_path / "data", free_port(3)
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
