//! `tidemark dev -f`: a file of resources, applied to brokers of this process.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{BINARY, Broker, numbers, until};

const CLUSTER: &str = "apiVersion: tidemark.dev/v1alpha1
kind: Cluster
metadata: {name: orders}
spec:
  quorum: {voters: 1}
  pools: [{name: a, replicas: 1, storage: {size: 1Gi}}]
  config: {log.retention.hours: '24'}
";

/// A topic with more lines of its spec, and of its metadata.
fn topic(name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: tidemark.dev/v1alpha1\nkind: Topic\nmetadata:\n  name: {name}\n{metadata}spec:\n  clusterRef: {{name: orders}}\n{spec}"
    )
}

fn group(spec: &str) -> String {
    format!(
        "---\napiVersion: tidemark.dev/v1alpha1\nkind: ConsumerGroup\nmetadata: {{name: billing}}\nspec:\n  clusterRef: {{name: orders}}\n{spec}"
    )
}

/// A file that is edited.
struct File(tempfile::TempDir);

impl File {
    fn new(text: &str) -> Self {
        let file = Self(tempfile::tempdir().unwrap());
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("orders.yaml")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    fn start(&self) -> Broker {
        Broker::start_with(&["-f", self.path().to_str().unwrap()])
    }
}

fn partitions(broker: &Broker, topic: &str) -> Value {
    let all = broker.json(&["topic", "list"]);
    let all = all.as_array().unwrap();
    all.iter()
        .find(|one| one["topic"] == topic)
        .map_or(Value::Null, |one| one["partitions"].clone())
}

fn setting(broker: &Broker, topic: &str, name: &str) -> Value {
    let all = broker.json(&["config", "show", "--topic", topic, "--all"]);
    let all = all.as_array().unwrap();
    all.iter().find(|one| one["name"] == name).unwrap()["value"].clone()
}

#[test]
fn a_file_is_applied_and_applied_again_when_it_changes() {
    let file = File::new(&format!(
        "{CLUSTER}{}",
        topic("purchases", "", "  partitions: 3\n  retention: 7d\n")
    ));
    let broker = file.start();
    broker.says("Cluster: spec.pools[].storage.size has no effect here");
    broker.says("made     with 3 partitions, retention.ms=604800000");
    broker.says("produce purchases");
    assert_eq!(partitions(&broker, "purchases"), 3);
    let rows = broker.json(&["config", "show", "--broker", "0"]);
    let hours = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "log.retention.hours");
    assert_eq!(hours.unwrap()["value"], "24");

    // More partitions at once; shorter retention waits for its approval.
    let edited = |metadata: &str| {
        format!(
            "{CLUSTER}{}",
            topic("purchases", metadata, "  partitions: 5\n  retention: 1d\n")
        )
    };
    file.write(&edited(""));
    broker.says("grown    to 5 partitions");
    let waits = broker.says("waits");
    assert!(
        waits.contains("records beyond the new limit would be deleted"),
        "{waits}"
    );
    let id = waits.rsplit(' ').next().unwrap();
    assert_eq!(partitions(&broker, "purchases"), 5);
    assert_eq!(setting(&broker, "purchases", "retention.ms"), "604800000");
    file.write(&edited(&format!(
        "  annotations: {{tidemark.dev/approve: {id}}}\n"
    )));
    broker.says("changed  retention.ms=86400000");
    assert_eq!(setting(&broker, "purchases", "retention.ms"), "86400000");

    // What somebody else changed is mended.
    broker.ok(&[
        "topic",
        "alter",
        "purchases",
        "--set",
        "segment.bytes=1048576",
    ]);
    broker.says("segment.bytes back to the default");
}

#[test]
fn a_bad_edit_changes_nothing_and_stops_no_other() {
    let file = File::new(&format!(
        "{CLUSTER}{}",
        topic("first", "", "  partitions: 2\n")
    ));
    let broker = file.start();
    broker.says("made     with 2 partitions");
    file.write("kind: [");
    broker.says("was not applied");
    let bad = topic("first", "", "  partitions: 1\n");
    file.write(&format!(
        "{CLUSTER}{bad}{}",
        topic("second", "", "  partition: 1\n")
    ));
    broker.says("refused  partitions cannot be taken away");
    broker.says("spec.partition: there is no such field");
    file.write(&format!("{CLUSTER}{bad}{}", topic("third", "", "")));
    broker.says("made     with 1 partition");
    assert_eq!(partitions(&broker, "first"), 2);
    assert_eq!(partitions(&broker, "second"), Value::Null);
    // Brokers are those of the start.
    let file_of_two = CLUSTER.replace("replicas: 1", "replicas: 2");
    file.write(&format!("{file_of_two}{}", topic("third", "", "")));
    broker.says("stop this with Ctrl-C and start it again");
}

#[test]
fn a_groups_offsets_are_shown_and_moved_once() {
    let with = |reset: &str| format!("{CLUSTER}{}{}", topic("t", "", ""), group(reset));
    let file = File::new(&with("  lag: {records: 2}\n"));
    let broker = file.start();
    broker.says("nobody has used the group yet");
    broker.ok_with_input(&["produce", "t"], &numbers(1..=6));
    broker.ok(&["consume", "t", "--group", "billing", "-n", "3"]);
    broker.says("3 records behind, 2 are allowed");

    let reset = "  reset: {token: one, to: {earliest: true}";
    file.write(&with(&format!("{reset}}}\n")));
    let shown = broker.says("dry run");
    assert!(
        shown.contains("t-0: 3 to 0") && shown.contains("dryRun: false"),
        "{shown}"
    );
    let committed = |broker: &Broker| {
        broker.json(&["group", "describe", "billing"])["partitions"][0]["committed"].clone()
    };
    assert_eq!(committed(&broker), 3);
    let done = with(&format!("{reset}, dryRun: false}}\n"));
    file.write(&done);
    broker.says("reset one: 1 partitions, -3 records");
    assert_eq!(committed(&broker), 0);

    // The token is used up, also after a restart.
    broker.ok(&["consume", "t", "--group", "billing", "-n", "5"]);
    let mut broker = broker;
    assert_eq!(broker.stop("TERM"), Some(0));
    let path = file.path();
    let broker = broker.restart_with(&["-f", path.to_str().unwrap()]);
    broker.says("reset one: 1 partitions, -3 records");
    assert_eq!(committed(&broker), 5);
}

#[test]
fn topics_that_were_there_are_adopted_or_refused() {
    let strict = |name: &str| topic(name, "", "  existing: Refuse\n");
    let file = File::new(&format!("{CLUSTER}{}", strict("mine")));
    let broker = file.start();
    broker.says("made");
    broker.ok(&["topic", "create", "theirs"]);
    file.write(&format!("{CLUSTER}{}{}", strict("mine"), strict("theirs")));
    broker.says("there is a topic theirs already");
    let mut broker = broker;
    assert_eq!(broker.stop("INT"), Some(0));
    // What it made itself it knows again.
    let path = file.path();
    let broker = broker.restart_with(&["-f", path.to_str().unwrap()]);
    broker.says("nothing to do");
}

fn refused(text: &str, arguments: &[&str]) -> (i32, String) {
    let file = File::new(text);
    let data = tempfile::tempdir().unwrap();
    let done = Command::new(BINARY)
        .args([
            "dev",
            "--listen",
            "127.0.0.1:0",
            "--data",
            data.path().to_str().unwrap(),
        ])
        .args(["-f", file.path().to_str().unwrap()])
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        std::fs::read_dir(data.path()).unwrap().next().is_none(),
        "nothing was begun"
    );
    (
        done.status.code().unwrap(),
        String::from_utf8_lossy(&done.stderr).into_owned(),
    )
}

#[test]
fn a_file_that_cannot_be_applied_starts_nothing() {
    for (text, says) in [
        (String::new(), "it has no Cluster"),
        ("a: [".to_owned(), "orders.yaml"),
        (
            CLUSTER.replace("pools", "pool"),
            "spec.pool: there is no such field; there are",
        ),
        (
            CLUSTER
                .replace("replicas: 1", "replicas: 2")
                .replace("voters: 1", "voters: 3"),
            "3 voters need as many brokers",
        ),
        (
            CLUSTER.replace("replicas: 1", "replicas: 10"),
            "9 is the most that run in one process",
        ),
        (
            CLUSTER.replace("log.retention.hours: '24'", "node.id: '1'"),
            "node.id follows from other fields",
        ),
        (
            format!("{CLUSTER}{}", topic("Big", "", "")),
            "'Big' is no name of a resource",
        ),
        (
            format!("{CLUSTER}{}", topic("t", "", "  retention: 7w\n")),
            "'7w' does not match",
        ),
        (
            format!("{CLUSTER}---\n{}", CLUSTER.replace("orders", "two")),
            "the Clusters orders and two",
        ),
    ] {
        let (code, error) = refused(&text, &[]);
        assert!(
            code == 2 && error.contains(says),
            "'{error}' does not say '{says}'"
        );
    }
    let (code, error) = refused(CLUSTER, &["--brokers", "3"]);
    assert!(code == 2 && error.contains("--brokers"), "{error}");
}

#[test]
fn every_example_runs() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut ran = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let broker = Broker::start_with(&["-f", path.to_str().unwrap()]);
        broker.says("next:");
        let made =
            text.matches("kind: Topic").count() - text.matches("managementPolicy: Observe").count();
        let topics = broker.json(&["topic", "list"]);
        assert_eq!(topics.as_array().unwrap().len(), made, "{}", path.display());
        let brokers: usize = text
            .lines()
            .filter_map(|line| {
                line.trim()
                    .strip_prefix("replicas: ")?
                    .parse::<usize>()
                    .ok()
            })
            .next()
            .unwrap();
        assert_eq!(
            broker.address.split(',').count(),
            brokers,
            "{}",
            path.display()
        );
        ran += 1;
    }
    assert!(ran >= 4);
}

#[test]
fn a_bucket_elsewhere_is_a_directory_here() {
    let tiered = CLUSTER.replace(
        "config: {",
        "tier: {url: 's3://acme/x', region: r, upload: {maxLag: 200ms}}\n  config: {",
    );
    let spec = "  tier: {enabled: true}\n";
    let file = File::new(&format!("{tiered}{}", topic("clicks", "", spec)));
    let broker = file.start();
    let note = broker.says("the bucket s3://acme/x is file://");
    let bucket = note.split(' ').nth_back(1).unwrap().to_owned();
    broker.ok_with_input(&["produce", "clicks"], &numbers(1..=100));
    until("records in the bucket", || {
        let listed = broker.run(&["tier", "ls", &bucket]);
        listed.code == 0 && listed.stdout.contains("clicks")
    });
}
