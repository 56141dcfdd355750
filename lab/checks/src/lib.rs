//! Checks of the repository itself: which room may import which.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The rooms, lowest first, each with the rooms that it may import.
///
/// This is the dependency rule of ARCHITECTURE.md as a table: a room that is not listed, or that
/// imports one that is not listed for it, fails the build's tests.
pub const ROOMS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("wire-json", &["wire"]),
    ("records", &[]),
    ("config", &[]),
    ("env", &[]),
    ("tls", &["config", "env"]),
    ("model", &["wire", "config"]),
    ("wal", &["env"]),
    ("log", &["wire", "records", "config", "model", "env", "wal"]),
    ("replication", &["model"]),
    ("tier", &["wire", "records", "env"]),
    (
        "quorum",
        &["wire", "records", "config", "model", "env", "log"],
    ),
    ("coordinator", &["wire", "records", "config", "model"]),
    ("client", &["wire", "records", "model", "env", "tls"]),
    ("crds", &["config"]),
    (
        "operator",
        &["wire", "config", "env", "tls", "client", "crds"],
    ),
    (
        "server",
        &[
            "wire",
            "records",
            "config",
            "model",
            "env",
            "tls",
            "wal",
            "log",
            "replication",
            "tier",
            "quorum",
            "coordinator",
            "client",
        ],
    ),
    (
        "sim",
        &[
            "wire", "records", "config", "model", "env", "wal", "log", "tier", "client", "server",
        ],
    ),
    (
        "cli",
        &[
            "wire",
            "wire-json",
            "records",
            "config",
            "model",
            "env",
            "tls",
            "wal",
            "log",
            "tier",
            "client",
            "crds",
            "operator",
            "server",
        ],
    ),
];

/// Rooms that are not below `broker/`: they are on the side of Kubernetes.
pub const BESIDE: &[&str] = &["crds", "operator"];

/// Crates that only rooms on the side of Kubernetes may name: a broker must not carry a client of
/// Kubernetes.
const OF_KUBERNETES: &[&str] = &["kube", "k8s-openapi"];

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Rooms imported by each room, tests' imports left out: a test may reach for a higher room's
/// tools, the product may not.
#[allow(clippy::disallowed_methods, reason = "a check reads the repository")]
pub fn imports() -> std::io::Result<BTreeMap<String, Vec<String>>> {
    let mut imports = BTreeMap::new();
    let rooms = std::fs::read_dir(root().join("broker"))?.map(|entry| entry.map(|e| e.path()));
    let beside = BESIDE.iter().map(|room| Ok(root().join(room)));
    for path in rooms.chain(beside) {
        let path = path?;
        let manifest = path.join("Cargo.toml");
        if !manifest.exists() {
            continue;
        }
        let room = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        imports.insert(room, dependencies(&std::fs::read_to_string(manifest)?));
    }
    Ok(imports)
}

/// The rooms named in the `[dependencies]` tables of a manifest.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]") && !line.contains("dev-dependencies");
        } else if inside && let Some(name) = line.strip_prefix("tidemark-") {
            let end = name
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                .unwrap_or(name.len());
            rooms.push(name[..end].to_string());
        }
    }
    rooms
}

/// The rooms whose manifests name a crate of Kubernetes.
#[allow(clippy::disallowed_methods, reason = "a check reads the repository")]
pub fn on_kubernetes() -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for (room, _) in ROOMS {
        let folder = if BESIDE.contains(room) { "" } else { "broker/" };
        let manifest = root().join(format!("{folder}{room}/Cargo.toml"));
        let text = std::fs::read_to_string(manifest)?;
        let names = |line: &str| {
            let end = line.find(['.', ' ', '=']).unwrap_or(line.len());
            OF_KUBERNETES.contains(&&line[..end])
        };
        if text.lines().any(|line| names(line.trim())) {
            found.push((*room).to_owned());
        }
    }
    Ok(found)
}

/// Every import that the table does not allow, as sentences.
pub fn violations(imports: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for (room, imported) in imports {
        match ROOMS.iter().find(|(name, _)| name == room) {
            None => found.push(format!("{room} has no place in the table of rooms")),
            Some((_, allowed)) => found.extend(
                imported
                    .iter()
                    .filter(|other| !allowed.contains(&other.as_str()))
                    .map(|other| format!("{room} must not import {other}")),
            ),
        }
    }
    found
}
