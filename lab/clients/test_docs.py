"""What the documentation says can be typed, can be typed, and says what the page shows."""

import re

import pytest
import yaml
from confluent_kafka import Producer

from labkit import pages
from labkit.broker import Broker, tool
from labkit.paths import REPO

pytestmark = pytest.mark.ours



def named(path):
    return str(path.relative_to(REPO)).removesuffix(".md")


def kafka_data():
    """A stopped Apache Kafka with a topic of two partitions: where its data is."""
    kafka = Broker(kind="kafka", name="imported", settings={"offsets.topic.num.partitions": "50"})
    kafka.start()
    tool("TopicCommand", "--bootstrap-server", kafka.bootstrap, "--create", "--topic", "payments", "--partitions", 2)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 100})
    for line, partition in (("paid", 0), ("refunded", 0), ("waived", 1)):
        producer.produce("payments", line, partition=partition)
    assert producer.flush(20) == 0
    tool("ConsoleConsumer", "--bootstrap-server", kafka.bootstrap, "--topic", "payments", "--group", "books", "--from-beginning",
         "--max-messages", 3)
    kafka.stop()
    return kafka


@pytest.mark.parametrize("path", pages.PAGES, ids=named)
def test_a_page_can_be_typed(path, tmp_path, request):
    found = pages.blocks(path)
    words = {}
    if any("/var/lib/kafka" in line for block in found for line in block.lines):
        kafka = kafka_data()
        request.addfinalizer(kafka.discard)
        words["/var/lib/kafka"] = str(kafka.partition_dir("payments", 0).parent)
    runbook = path.parent.name == "runbooks"
    reader = pages.Reader(tmp_path, words)
    try:
        if runbook and any(block.kind == "console" for block in found):
            ready(reader)
        for block in found:
            if block.kind == "console" or block.notes:
                reader.read(block)
            else:
                hidden = [line for line in block.lines if re.match(pages.PROGRAMS, line)]
                assert not hidden, f"line {block.line}: commands stand in a block of console: {hidden}"
    finally:
        reader.end()
    print(f"{named(path)}: {reader.typed} commands typed, {reader.checked} checked")


def ready(reader):
    """Brokers with a topic, a group, a bucket and metrics, and what a runbook calls them."""
    reader.type("tidemark dev -f examples/orders.yaml --set tier.url=file:///tmp/bucket", [])
    reader.type("seq 100 | tidemark produce purchases", [])
    reader.type("tidemark consume purchases --group shipping", [])
    http = re.search(r"http://(127\.0\.0\.1:\d+)/", reader.terminal_log.read_text())[1]
    # 8080 is where a broker has its metrics; one of development says where.
    reader.words = {"BROKER:8080": http, "--broker BROKER": "--broker 1", "TOPIC": "purchases", "GROUP": "shipping",
                    "s3://BUCKET/PREFIX": "file:///tmp/bucket", "DIRECTORY": "data"}


def test_resources_on_pages_are_resources(tmp_path):
    """Each block of YAML that is a whole resource is one that `tidemark dev -f` takes."""
    for path in pages.PAGES:
        for block in pages.blocks(path):
            if block.kind == "yaml":
                for document in yaml.safe_load_all("\n".join(block.lines)):
                    kind = (document or {}).get("kind", "cluster" if "spec" in (document or {}) else None)
                    for leaf in pages.leaves({"spec": document["spec"]}) if kind else []:
                        pages.in_schema(pages.schema(kind.lower()), [name for name in leaf if isinstance(name, str)])


def test_a_lie_is_found(tmp_path):
    """The judge: what is not shown, what is not known and what nobody runs."""
    reader = pages.Reader(tmp_path, patience=1)
    page = tmp_path / "page.md"

    def read(text):
        page.write_text(text)
        for block in pages.blocks(page):
            reader.read(block)

    try:
        read("```console\n$ printf 'a\\nb\\nc\\n'\na\n…\nc\n$ echo 3 s, 12 B/s\n17 ms, 1.5 KiB/s\n```\n")
        for text, why in (("$ printf 'a\\nb\\n'\na", "there came"), ("$ ls nowhere", "exit code"),
                          ("$ rm -rf x", "nobody runs or checks"), ("$ kubectl get tmx", "no resource tmx"),
                          ("$ kubectl patch tmc x --type=merge -p '{\"spec\":{\"imaje\":1}}'", "no field spec.imaje"),
                          ("$ helm install x chart/ --set nothing=1", "no value"), ("$ cargo build -p tidemark-klient", "no package"),
                          ("$ kubectl annotate tmc x tidemark.dev/nonsense=1", "nobody knows"), ("$ ./test everything", "everything"),
                          ("$ lab/nothing/run", "cannot be run")):
            with pytest.raises(AssertionError, match=why):
                read(f"```console\n{text}\n```\n")
    finally:
        reader.end()
