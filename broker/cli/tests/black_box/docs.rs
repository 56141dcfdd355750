//! The pages hang together, and say of APIs what a broker says. What they tell people to type is
//! typed by `lab/clients/test_docs.py`.

use std::path::{Path, PathBuf};

use tidemark_client::{Connection, ConnectionOptions};
use tidemark_wire::ApiKey;

use crate::harness::Broker;

/// Keys from here on are not Kafka's.
const OWN_APIS: i16 = 10_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
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
