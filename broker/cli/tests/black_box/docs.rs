//! What the pages tell people to type works: the commands of every `console` block are run in order,
//! each page with brokers of its own. Blocks without `console` need a Kubernetes, a registry or root.

use std::path::{Path, PathBuf};
use std::process::Command;

use tidemark_client::{Connection, ConnectionOptions};
use tidemark_wire::ApiKey;

use crate::harness::{BINARY, Broker};

/// Keys from here on are not Kafka's.
const OWN_APIS: i16 = 10_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// What is typed in a text, in order.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(kind), false) => inside = kind == "console",
            (Some(_), true) => inside = false,
            (None, true) => found.extend(line.strip_prefix("$ ").map(str::to_owned)),
            (None, false) => {}
        }
    }
    found
}

/// Runs what is typed; `tidemark dev` goes on beside the rest, at an address of its own.
fn run(page: &str, commands: &[String]) {
    let root = root();
    let bin = Path::new(BINARY).parent().unwrap().display().to_string();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
    let mut broker = None;
    for command in commands {
        if let Some(arguments) = command.strip_prefix("tidemark dev") {
            let absolute = |word: &str| match root.join(word).is_file() {
                true => root.join(word).display().to_string(),
                false => word.to_owned(),
            };
            let arguments: Vec<String> = arguments.split_whitespace().map(absolute).collect();
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            broker = Some(Broker::start_with(&arguments));
            continue;
        }
        let address = broker
            .as_ref()
            .map_or("127.0.0.1:1", |broker| &broker.address);
        let done = Command::new("sh")
            .args(["-c", command])
            .current_dir(&root)
            .env("PATH", &path)
            .env("TIDEMARK_BOOTSTRAP", address)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{page}: `{command}` failed: {done:?}"
        );
    }
}

#[test]
fn what_the_pages_say_can_be_typed() {
    for page in ["docs/install.md", "docs/operations.md"] {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let commands = commands(&text);
        assert!(commands.len() >= 4, "{page} has lost its commands");
        run(page, &commands);
    }
}

#[test]
fn the_first_commands_of_the_readme_can_be_typed() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let first = text
        .split("\n## ")
        .find(|section| section.starts_with("One file"))
        .unwrap();
    let commands = commands(first);
    assert!(
        commands
            .iter()
            .any(|command| command.starts_with("tidemark dev -f "))
    );
    // What builds it and puts it on the path was done for this test.
    let commands: Vec<String> = commands
        .into_iter()
        .filter(|command| !command.starts_with("cargo ") && !command.starts_with("export PATH"))
        .collect();
    run("README.md", &commands);
}

#[test]
fn every_page_is_in_the_index_and_every_link_leads_somewhere() {
    let docs = root().join("docs");
    let index = std::fs::read_to_string(docs.join("README.md")).unwrap();
    for entry in std::fs::read_dir(&docs).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() || name == "README.md" {
            continue;
        }
        assert!(
            index.contains(&format!("({name})")),
            "docs/README.md does not list {name}"
        );
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if link.starts_with("http") || link.starts_with('#') {
                continue;
            }
            let file = link.split('#').next().unwrap();
            assert!(docs.join(file).exists(), "{name} links to {link}");
        }
    }
}

/// Kafka's APIs, and what a broker answers when it is asked which it serves.
fn page_of_apis() -> String {
    let broker = Broker::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let options = ConnectionOptions::default();
    let connection = runtime
        .block_on(Connection::connect(&broker.address, &options))
        .unwrap();
    let mut page = String::from(
        "# Kafka's APIs\n\nWhat a broker answers when it is asked: `UPDATE=1 cargo test -p tidemark-cli --test black_box apis` writes this page. All that Kafka 4.3 knows; those that are served are served at every version that Kafka 4.3 calls stable. Produce 0 to 2 are advertised as in Kafka, for old clients to find out by, and answered with UNSUPPORTED_VERSION.\n\n| key | API | versions |\n|---|---|---|\n",
    );
    let mut all: Vec<ApiKey> = ApiKey::ALL.to_vec();
    all.sort_by_key(|api| *api as i16);
    for api in all.into_iter().filter(|api| (*api as i16) < OWN_APIS) {
        let versions = match connection.versions().range(api) {
            None => "not served".to_owned(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first} to {last}"),
        };
        page.push_str(&format!(
            "| {} | {} | {versions} |\n",
            api as i16,
            api.name()
        ));
    }
    page
}

#[test]
fn the_page_of_apis_is_fresh() {
    let (path, page) = (root().join("docs/apis.md"), page_of_apis());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "docs/apis.md is stale: UPDATE=1 cargo test -p tidemark-cli --test black_box apis"
    );
}
