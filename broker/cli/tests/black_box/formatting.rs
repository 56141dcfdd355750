//! `format`, what `broker` says where it was forgotten, and clusters of `dev`.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Broker, Done, numbers, run_against};

/// Files and data of nodes that are formatted.
struct Nodes(tempfile::TempDir);

impl Nodes {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn data(&self, node_id: u8) -> PathBuf {
        self.0.path().join(format!("data-{node_id}"))
    }

    /// The file of a node with more settings.
    fn file(&self, node_id: u8, more: &str) -> String {
        let file = self.0.path().join(format!("{node_id}.properties"));
        let data = self.data(node_id).display().to_string();
        let text = format!(
            "node.id={node_id}\nlisteners=PLAINTEXT://127.0.0.1:0\nhttp.listen=\nlog.dirs={data}\n{more}"
        );
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    /// The file of a member of a cluster of two controllers.
    fn member(&self, node_id: u8) -> String {
        self.file(
            node_id,
            "listeners=PLAINTEXT://127.0.0.1:0,CONTROLLER://127.0.0.1:9093\n\
             controller.listener.names=CONTROLLER\n\
             controller.quorum.bootstrap.servers=a:9093,b:9093\n",
        )
    }
}

fn run(arguments: &[&str]) -> Done {
    // Nobody listens there: formatting asks nobody.
    run_against("127.0.0.1:1", arguments, b"")
}

fn json(arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.extend(["-o", "json"]);
    serde_json::from_str(&run(&all).ok()).unwrap()
}

#[test]
fn a_broker_that_is_not_formatted_says_what_to_type() {
    let nodes = Nodes::new();
    let file = nodes.file(4, "");
    let said = run(&["broker", "--config", &file]).failed(2, "not formatted: ");
    let data = nodes.data(4).display().to_string();
    assert!(said.stderr.contains(&data), "{said:?}");
    let next = format!("next: tidemark format --config {file}\n");
    assert!(said.stderr.contains(&next), "{said:?}");
}

#[test]
fn a_single_node_is_formatted_once() {
    let nodes = Nodes::new();
    let file = nodes.file(4, "");
    let said = run(&["format", "--config", &file]).ok();
    assert!(said.contains("metadata quorum"), "{said}");
    assert!(
        said.contains(&format!("next:  tidemark broker --config {file}")),
        "{said}"
    );
    run(&["format", "--config", &file]).failed(1, "formatted already");
    let first = json(&["format", "--config", &file, "--ignore-formatted"]);
    let second = json(&["format", "--config", &file, "--ignore-formatted"]);
    assert_eq!(first, second);
    assert_eq!(first["node_id"], 4);
    assert_eq!(
        first["directories"][0]["directory"],
        nodes.data(4).display().to_string()
    );
    let id = run(&["format", "--random-uuid"]).ok();
    run(&["format", "--config", &file, "--cluster-id", id.trim()]).failed(1, "of cluster");
    let meta = std::fs::read_to_string(nodes.data(4).join("meta.properties")).unwrap();
    assert!(
        meta.contains(first["cluster_id"].as_str().unwrap()),
        "{meta}"
    );
}

#[test]
fn members_of_a_cluster_are_formatted_with_one_list() {
    let nodes = Nodes::new();
    let id = || run(&["format", "--random-uuid"]).ok().trim().to_owned();
    let (cluster, one, two) = (id(), id(), id());
    assert_ne!(one, two);
    let voters = format!("1@a:9093:{one},2@b:9093:{two}");
    let (first, second) = (nodes.member(1), nodes.member(2));
    let vague = run(&["broker", "--config", &first]).failed(2, "--initial-voters");
    assert!(vague.stderr.contains("--cluster-id ID"), "{vague:?}");
    run(&["format", "--config", &first]).failed(2, "several controllers");
    let with = |file: &str, voters: &str| {
        let done = [
            "format",
            "--config",
            file,
            "--cluster-id",
            &cluster,
            "--initial-controllers",
        ];
        run(&[&done[..], &[voters]].concat())
    };
    with(&first, &format!("2@b:9093:{two}")).failed(2, "node 1 is not among");
    with(&first, "1@a:9093").failed(2, "NODE@HOST:PORT:DIRECTORY_ID");
    with(&first, "1@a:9093:nonsense").failed(2, "--random-uuid");
    let said = with(&first, &voters).ok();
    let next = format!("format --config FILE --cluster-id {cluster} --initial-voters {voters}");
    assert!(said.contains(&next), "{said}");
    with(&second, &voters).ok();
    let found = json(&[
        "format",
        "--config",
        &second,
        "--ignore-formatted",
        "--standalone",
    ]);
    assert_eq!(found["cluster_id"], cluster);
    assert_eq!(found["directories"][0]["directory_id"], two);
    // A node without a vote joins a cluster that there is.
    let third = nodes.file(
        3,
        "process.roles=broker\ncontroller.quorum.bootstrap.servers=a:9093\n",
    );
    run(&["format", "--config", &third]).failed(2, "cluster id");
    let joined = json(&["format", "--config", &third, "--cluster-id", &cluster]);
    assert_eq!(
        joined["directories"][0]["roles"],
        serde_json::json!(["logs"])
    );
}

#[test]
fn a_cluster_of_three_in_one_process_keeps_its_data() {
    let mut brokers = Broker::start_with(&["--brokers", "3"]);
    brokers.ok(&["topic", "create", "t", "-p", "3"]);
    brokers.ok_with_input(&["produce", "t"], &numbers(1..=100));
    let described = brokers.json(&["topic", "describe", "t"]);
    for partition in described["partitions"].as_array().unwrap() {
        assert_eq!(
            partition["replicas"].as_array().unwrap().len(),
            3,
            "{described}"
        );
    }
    assert_eq!(brokers.stop("TERM"), Some(0));
    let mut brokers = brokers.restart();
    let mut lines: Vec<u32> = brokers
        .ok(&["consume", "t"])
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, (1..=100).collect::<Vec<_>>());
    assert_eq!(brokers.stop("INT"), Some(0));
    let data = brokers.data().display().to_string();
    run(&["dev", "--data", &data, "--brokers", "2"]).failed(2, "a cluster of 3 brokers");
}
