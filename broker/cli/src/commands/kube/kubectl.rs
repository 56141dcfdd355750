//! kubectl as a process.

use std::io::ErrorKind;
use std::process::{Command, Output};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tidemark_env::task;

use super::Place;
use crate::failure::{Exit, Failure};

/// kubectl, with the place that it is used at.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: String,
    place: Vec<String>,
}

/// A list of objects.
#[derive(Debug, Deserialize)]
struct List<K> {
    items: Vec<K>,
}

impl Kubectl {
    /// That of KUBECTL, or of the path.
    pub fn new(place: &Place) -> Self {
        let mut words = Vec::new();
        if let Some(namespace) = &place.namespace {
            words.extend(["--namespace".to_owned(), namespace.clone()]);
        }
        if let Some(context) = &place.context {
            words.extend(["--context".to_owned(), context.clone()]);
        }
        let program = std::env::var("KUBECTL")
            .ok()
            .filter(|name| !name.is_empty());
        Self {
            program: program.unwrap_or_else(|| "kubectl".to_owned()),
            place: words,
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.place).args(words);
        command
    }

    fn not_started(&self, error: &std::io::Error) -> Failure {
        let program = &self.program;
        match error.kind() {
            ErrorKind::NotFound => Failure::usage(format!(
                "there is no {program} on the path: install it, or name it with KUBECTL"
            )),
            _ => Failure::finding(format!("{program}: {error}")),
        }
    }

    /// What it prints.
    ///
    /// # Errors
    /// What it says when it fails.
    pub async fn text(&self, words: &[&str]) -> Result<String, Failure> {
        let mut command = self.command(words);
        let done = task::blocking(move || command.output())
            .await
            .map_err(Failure::bug)?;
        let done = done.map_err(|error| self.not_started(&error))?;
        match done.status.success() {
            true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
            false => Err(refused(&done)),
        }
    }

    /// What it prints, whether it succeeds or not: for a command whose exit code speaks of what it found.
    ///
    /// # Errors
    /// That it cannot be started.
    pub async fn output(&self, words: &[&str]) -> Result<String, Failure> {
        let mut command = self.command(words);
        let done = task::blocking(move || command.output())
            .await
            .map_err(Failure::bug)?;
        let done = done.map_err(|error| self.not_started(&error))?;
        match done.stdout.is_empty() && !done.status.success() {
            true => Err(refused(&done)),
            false => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        }
    }

    /// An object.
    ///
    /// # Errors
    /// As [`Kubectl::text`]; an object that is not of this kind.
    pub async fn get<K: DeserializeOwned>(&self, what: &[&str]) -> Result<K, Failure> {
        let words = [&["get", "-o", "json"][..], what].concat();
        let text = self.text(&words).await?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::finding(format!("{}: {error}", what.join(" "))))
    }

    /// Objects.
    ///
    /// # Errors
    /// As [`Kubectl::get`].
    pub async fn list<K: DeserializeOwned>(&self, what: &[&str]) -> Result<Vec<K>, Failure> {
        let list: List<K> = self.get(what).await?;
        Ok(list.items)
    }

    /// Runs it with our standard input and output, and ends as it does.
    ///
    /// # Errors
    /// That it cannot be started.
    pub async fn hand_over(&self, words: &[&str]) -> Result<Exit, Failure> {
        let mut command = self.command(words);
        let done = task::blocking(move || command.status())
            .await
            .map_err(Failure::bug)?;
        let done = done.map_err(|error| self.not_started(&error))?;
        Ok(match done.code() {
            Some(0) => Exit::Ok,
            Some(2) => Exit::Usage,
            Some(3) => Exit::Unreachable,
            _ => Exit::Finding,
        })
    }
}

fn refused(done: &Output) -> Failure {
    let says = String::from_utf8_lossy(&done.stderr);
    let says = says.trim();
    let unreachable = [
        "connection refused",
        "no such host",
        "i/o timeout",
        "Unable to connect",
        "was refused",
    ];
    if unreachable.iter().any(|sign| says.contains(sign)) {
        return Failure::unreachable(format!("Kubernetes cannot be asked: {says}"))
            .next("kubectl cluster-info");
    }
    if says.contains("the server doesn't have a resource type") {
        return Failure::finding(
            "this Kubernetes does not know Tidemark's resources: the operator is not installed",
        )
        .next("helm install tidemark chart/ -n tidemark-system --create-namespace");
    }
    Failure::finding(match says.is_empty() {
        true => format!("kubectl failed: {}", done.status),
        false => says.to_owned(),
    })
}
