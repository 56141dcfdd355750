//! A resource as somebody wrote it: read and checked as the API server and the operator do; pure.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::common::Invalid;
use crate::{
    Cluster, ConsumerGroup, GROUP, Topic, VERSION, cluster, group, reference, schema, topic,
};

/// One resource.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// A cluster.
    Cluster(Box<Cluster>),
    /// A topic.
    Topic(Box<Topic>),
    /// A group.
    ConsumerGroup(Box<ConsumerGroup>),
}

/// What a resource is called: kind, namespace and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty where it does not say.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl Name {
    /// Of a document, as far as it says.
    #[must_use]
    pub fn of(document: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &document["metadata"];
        Self {
            kind: text(&document["kind"]),
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
        }
    }
}

/// Reads a document and checks it: its schema, its rules, and what only the table of settings
/// knows. `None` for what is not of this group, and somebody else's to apply.
///
/// # Errors
/// All that its schema does not allow, or the first rule that it breaks.
pub fn read(document: &Value) -> Result<Option<Resource>, Invalid> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&document["apiVersion"]), text(&document["kind"]));
    if version.is_empty() || kind.is_empty() {
        return Err(Invalid::new(
            "NoKind",
            format!("a resource begins with apiVersion ({GROUP}/{VERSION}) and kind"),
        ));
    }
    if version.split('/').next() != Some(GROUP) {
        return Ok(None);
    }
    if version != format!("{GROUP}/{VERSION}") {
        return Err(Invalid::new(
            "UnknownVersion",
            format!("apiVersion {version} is not known: write {GROUP}/{VERSION}"),
        ));
    }
    let resource = match kind.as_str() {
        "Cluster" => Resource::Cluster(Box::new(typed(document)?)),
        "Topic" => Resource::Topic(Box::new(typed(document)?)),
        "ConsumerGroup" => Resource::ConsumerGroup(Box::new(typed(document)?)),
        _ => {
            return Err(Invalid::new(
                "UnknownKind",
                format!("there is no kind {kind}: there are Cluster, Topic and ConsumerGroup"),
            ));
        }
    };
    resource.validate()?;
    Ok(Some(resource))
}

fn typed<K: DeserializeOwned>(document: &Value) -> Result<K, Invalid> {
    let name = Name::of(document);
    check_name(&name.name)?;
    let of_kind = reference::definitions().into_iter();
    let mut of_kind = of_kind.filter(|(_, one)| one.spec.names.kind == name.kind);
    let versions = of_kind.next().map(|(_, one)| one.spec.versions);
    let schema = versions
        .into_iter()
        .flatten()
        .find(|one| one.name == VERSION);
    let schema = schema.and_then(|version| version.schema?.open_api_v3_schema);
    let spec = schema
        .as_ref()
        .and_then(|all| all.properties.as_ref()?.get("spec"));
    let invalid = |says: String| Invalid::new("InvalidSchema", says);
    let Some(spec) = spec else {
        return Err(invalid(format!("{} has no schema", name.kind)));
    };
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let fields = document.as_object().into_iter().flatten();
    if let Some((field, _)) = fields
        .into_iter()
        .find(|(field, _)| !known.contains(&field.as_str()))
    {
        let says = format!("{field}: there is no such field; what is wanted goes below spec");
        return Err(invalid(says));
    }
    let problems = match document.get("spec") {
        None | Some(Value::Null) => return Err(invalid("spec: is missing".to_owned())),
        Some(value) => schema::check(spec, "spec", value),
    };
    if !problems.is_empty() {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        return Err(invalid(all.join("; ")));
    }
    serde_json::from_value(document.clone()).map_err(|error| invalid(error.to_string()))
}

/// As Kubernetes has names: a DNS subdomain.
fn check_name(name: &str) -> Result<(), Invalid> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |label: &str| {
        label.starts_with(legal)
            && label.ends_with(legal)
            && label.chars().all(|c| legal(c) || c == '-')
    };
    if !name.is_empty() && name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    Err(Invalid::new(
        "InvalidName",
        match name.is_empty() {
            true => "metadata.name: is missing".to_owned(),
            false => format!(
                "metadata.name: '{name}' is no name of a resource: use lower-case letters, digits, '-' and '.' (a topic's or group's own name goes to spec.topicName or spec.groupId)"
            ),
        },
    ))
}

impl Resource {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Cluster(one) => {
                cluster::validate_name(one.metadata.name.as_deref().unwrap_or_default())?;
                cluster::validate(&one.spec)
            }
            Self::Topic(one) => topic::validate(one.topic_name(), &one.spec).map(|_| ()),
            Self::ConsumerGroup(one) => group::validate(one.group_id(), &one.spec),
        }
    }

    /// Whether this may take the place of `old`, of the same name.
    ///
    /// # Errors
    /// The first rule about changes that it breaks.
    pub fn validate_change(&self, old: &Self) -> Result<(), Invalid> {
        match (old, self) {
            (Self::Cluster(old), Self::Cluster(new)) => {
                cluster::validate_change(&old.spec, &new.spec)
            }
            (Self::Topic(old), Self::Topic(new)) => topic::validate_change(&old.spec, &new.spec),
            (Self::ConsumerGroup(old), Self::ConsumerGroup(new)) => {
                group::validate_change(&old.spec, &new.spec)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
