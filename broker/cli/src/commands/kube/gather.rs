//! `kubectl tidemark gather`: all that helps to find out what is wrong, in a directory.

use std::path::{Path, PathBuf};

use tidemark_crds::Cluster;
use tidemark_env::disk::{Disk, FileDisk, write_file_atomic};
use tidemark_env::task;

use super::{CLUSTER_LABEL, Kubectl, Place, cluster, pod_name};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::plural;

/// A file of the bundle, and what kubectl is asked for it.
fn wanted(
    name: &str,
    brokers: &[i32],
    operators: &[(String, String)],
) -> Vec<(String, Vec<String>)> {
    let labels = format!("{CLUSTER_LABEL}={name}");
    let ask = |file: &str, words: &[&str]| {
        (
            file.to_owned(),
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
        )
    };
    let mut all = vec![
        ask("version.yaml", &["version", "-o", "yaml"]),
        ask(
            "cluster.yaml",
            &["get", "cluster.tidemark.dev", name, "-o", "yaml"],
        ),
        ask("topics.yaml", &["get", "topics.tidemark.dev", "-o", "yaml"]),
        ask(
            "groups.yaml",
            &["get", "consumergroups.tidemark.dev", "-o", "yaml"],
        ),
        // Not Secrets: nothing of this is anything to hide from whoever is asked for help.
        ask(
            "objects.yaml",
            &[
                "get",
                "statefulsets,pods,services,configmaps,persistentvolumeclaims,poddisruptionbudgets",
                "-l",
                &labels,
                "-o",
                "yaml",
            ],
        ),
        ask("pods.txt", &["describe", "pods", "-l", &labels]),
        ask("events.txt", &["get", "events", "--sort-by=.lastTimestamp"]),
        ask("nodes.txt", &["get", "nodes", "-o", "wide"]),
    ];
    for (namespace, pod) in operators {
        all.push(ask(
            &format!("operator-{pod}.log"),
            &["logs", "-n", namespace, pod, "--tail=5000"],
        ));
    }
    for id in brokers {
        let pod = pod_name(name, *id);
        let proxy = format!("pods/{pod}:8080/proxy");
        all.push(ask(
            &format!("{pod}.log"),
            &["logs", &pod, "-c", "broker", "--tail=10000"],
        ));
        all.push(ask(
            &format!("{pod}.previous.log"),
            &["logs", &pod, "-c", "broker", "--previous", "--tail=10000"],
        ));
        for page in ["state", "readyz", "metrics", "metrics/partitions"] {
            let file = format!("{pod}.{}", page.replace('/', "-"));
            all.push((file, vec!["raw".to_owned(), format!("{proxy}/{page}")]));
        }
    }
    if let Some(id) = brokers.first() {
        let pod = pod_name(name, *id);
        all.push(ask(
            "doctor.txt",
            &["exec", &pod, "-c", "broker", "--", "tidemark", "doctor"],
        ));
        all.push(ask(
            "brokers.txt",
            &["exec", &pod, "-c", "broker", "--", "tidemark", "cluster"],
        ));
    }
    all
}

/// Writes the bundle.
pub async fn run(
    kubectl: &Kubectl,
    place: &Place,
    name: &str,
    to: Option<PathBuf>,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let found: Cluster = cluster(kubectl, place, name).await?;
    let namespace = found.metadata.namespace.clone().unwrap_or_default();
    let to = to.unwrap_or_else(|| PathBuf::from(format!("tidemark-gather-{name}")));
    let shown = to.display().to_string();
    let at = to.clone();
    let made = task::blocking(move || {
        let disk = FileDisk::new();
        if disk.exists(&at)? {
            return Err(std::io::Error::new(
                std::io::ErrorKind::AlreadyExists,
                "it is there already: name another one with --to",
            ));
        }
        disk.create_dir_all(&at)
    });
    made.await
        .map_err(Failure::bug)?
        .map_err(|error| Failure::file(&shown, &error))?;
    let status = found.status.unwrap_or_default();
    let brokers: Vec<i32> = status.brokers.iter().map(|broker| broker.id).collect();
    let mut missing = Vec::new();
    let operators = operators(kubectl).await;
    let files = wanted(name, &brokers, &operators);
    for (file, words) in &files {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let raw;
        let words = match words.as_slice() {
            ["raw", path] => {
                raw = format!("/api/v1/namespaces/{namespace}/{path}");
                vec!["get", "--raw", &raw]
            }
            _ => words,
        };
        // What cannot be had is said in its place: the rest may do.
        let text = match kubectl.output(&words).await {
            Ok(text) => text,
            Err(failure) => {
                missing.push(file.clone());
                format!("not to be had: {}\n", failure.message)
            }
        };
        write(&to.join(file), text).await?;
    }
    let report = serde_json::json!({"directory": shown, "files": files.len(), "missing": missing});
    context.out.show(&report, |out| {
        out.line(&format!(
            "Wrote {} to {shown}.",
            plural(files.len() as i64, "file")
        ))?;
        if !missing.is_empty() {
            out.line(&format!("Not to be had: {}", missing.join(", ")))?;
        }
        out.line(&format!("next: tar czf {shown}.tar.gz {shown}"))
    })?;
    Ok(Exit::Ok)
}

/// Pods of operators: namespace and name. In one's own namespace, where one may not look at all.
async fn operators(kubectl: &Kubectl) -> Vec<(String, String)> {
    let labels = ["pods", "-l", "app.kubernetes.io/name=tidemark-operator"];
    let everywhere: Result<Vec<Pod>, _> = kubectl.list(&[&labels[..], &["-A"]].concat()).await;
    let pods = match everywhere {
        Ok(pods) => pods,
        // None is not worth to fail for: the rest may do.
        Err(_) => kubectl.list(&labels).await.unwrap_or_default(),
    };
    pods.into_iter()
        .map(|pod| (pod.metadata.namespace, pod.metadata.name))
        .collect()
}

/// As much of a pod as is of use here.
#[derive(Debug, serde::Deserialize)]
struct Pod {
    metadata: Metadata,
}

#[derive(Debug, serde::Deserialize)]
struct Metadata {
    namespace: String,
    name: String,
}

async fn write(path: &Path, text: String) -> Result<(), Failure> {
    let (path, shown) = (path.to_owned(), path.display().to_string());
    let written =
        task::blocking(move || write_file_atomic(&FileDisk::new(), &path, text.as_bytes()));
    written
        .await
        .map_err(Failure::bug)?
        .map_err(|error| Failure::file(&shown, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_gathered_and_every_file_once() {
        let all = wanted("orders", &[0, 1], &[("a".to_owned(), "b".to_owned())]);
        assert!(
            all.iter()
                .all(|(_, words)| !words.iter().any(|word| word.contains("secret")))
        );
        let mut files: Vec<&String> = all.iter().map(|(file, _)| file).collect();
        files.sort();
        files.dedup();
        assert_eq!(files.len(), all.len());
        assert!(
            files
                .iter()
                .any(|file| *file == "orders-1-0.metrics-partitions")
        );
    }
}
