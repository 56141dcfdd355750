//! A file of resources, read and checked; pure.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tidemark_crds::manifest::{self, Name, Resource};
use tidemark_crds::{Cluster, ConsumerGroup, Invalid, Topic};

use super::cluster::MOST_BROKERS;
use super::fields;

/// What the Cluster of a file comes to here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brokers {
    /// How many brokers.
    pub brokers: u8,
    /// How many of them vote.
    pub voters: u8,
    /// Settings of all of them.
    pub settings: Vec<(String, String)>,
}

/// What is in a file.
#[derive(Debug, Default)]
pub struct Contents {
    /// Resources that passed all checks, in the order of the file.
    pub resources: Vec<(Name, Resource)>,
    /// Those that did not, and why.
    pub refused: Vec<(Name, Invalid)>,
    /// What is in the file and means nothing here.
    pub notes: Vec<String>,
}

/// Reads a file. Resources are held against those of `before`, whose place they take.
///
/// # Errors
/// Text that is no YAML: then nothing is known of any of them.
pub fn read(text: &str, before: &BTreeMap<Name, Resource>) -> Result<Contents, String> {
    let mut documents = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| error.to_string())?;
        match value["kind"].as_str() {
            _ if value.is_null() => {}
            // What `kubectl get -o yaml` prints.
            Some("List") => {
                documents.extend(value["items"].as_array().cloned().unwrap_or_default());
            }
            _ => documents.push(value),
        }
    }
    let mut contents = Contents {
        notes: fields::without_effect(&documents),
        ..Contents::default()
    };
    for document in &documents {
        let name = Name::of(document);
        let twice = contents.resources.iter().any(|(other, _)| *other == name);
        let read =
            manifest::read(document).and_then(|resource| match (resource, before.get(&name)) {
                _ if twice => Err(Invalid::new(
                    "GivenTwice",
                    "it is in the file twice: take one out",
                )),
                (Some(new), Some(old)) => new.validate_change(old).map(|()| Some(new)),
                (resource, _) => Ok(resource),
            });
        match read {
            Ok(Some(resource)) => contents.resources.push((name, resource)),
            Ok(None) => contents
                .notes
                .push(format!("{name} is passed over: it is Kubernetes' own")),
            Err(invalid) => contents.refused.push((name, invalid)),
        }
    }
    contents.check_places();
    Ok(contents)
}

impl Contents {
    /// The one Cluster.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn cluster(&self) -> Result<&Cluster, String> {
        let clusters = self
            .resources
            .iter()
            .filter_map(|(_, resource)| match resource {
                Resource::Cluster(cluster) => Some(&**cluster),
                _ => None,
            });
        match clusters.collect::<Vec<_>>().as_slice() {
            [cluster] => Ok(cluster),
            [] => {
                Err("it has no Cluster: add one, such as that of examples/cluster.yaml".to_owned())
            }
            [one, two, ..] => Err(format!(
                "it has the Clusters {} and {}: give each a file of its own, and run them with --data and --listen of their own",
                one.metadata.name.as_deref().unwrap_or_default(),
                two.metadata.name.as_deref().unwrap_or_default(),
            )),
        }
    }

    /// The Topics, in the order of the file.
    pub fn topics(&self) -> impl Iterator<Item = (&Name, &Topic)> {
        self.resources
            .iter()
            .filter_map(|(name, resource)| match resource {
                Resource::Topic(topic) => Some((name, &**topic)),
                _ => None,
            })
    }

    /// The ConsumerGroups, in the order of the file.
    pub fn groups(&self) -> impl Iterator<Item = (&Name, &ConsumerGroup)> {
        self.resources
            .iter()
            .filter_map(|(name, resource)| match resource {
                Resource::ConsumerGroup(group) => Some((name, &**group)),
                _ => None,
            })
    }

    /// Refuses what belongs to no Cluster of the file, and who claims a topic after another one.
    fn check_places(&mut self) {
        let clusters: Vec<Name> = self
            .resources
            .iter()
            .filter(|(_, resource)| matches!(resource, Resource::Cluster(_)))
            .map(|(name, _)| name.clone())
            .collect();
        let mut claimed: BTreeMap<(String, String), String> = BTreeMap::new();
        let mut kept = Vec::new();
        for (name, resource) in std::mem::take(&mut self.resources) {
            let of = match &resource {
                Resource::Cluster(_) => None,
                Resource::Topic(topic) => Some(&topic.spec.cluster_ref.name),
                Resource::ConsumerGroup(group) => Some(&group.spec.cluster_ref.name),
            };
            let there = |of: &String| {
                clusters
                    .iter()
                    .any(|cluster| cluster.name == *of && cluster.namespace == name.namespace)
            };
            if let Some(of) = of.filter(|of| !clusters.is_empty() && !there(of)) {
                let text = format!("there is no Cluster {of} in its namespace of this file");
                self.refused
                    .push((name, Invalid::new("ClusterNotFound", text)));
                continue;
            }
            if let Resource::Topic(topic) = &resource {
                let place = (name.namespace.clone(), topic.topic_name().to_owned());
                if let Some(owner) = claimed.get(&place) {
                    let text = format!("topic {} belongs to the Topic {owner}", place.1);
                    self.refused.push((name, Invalid::new("NameTaken", text)));
                    continue;
                }
                claimed.insert(place, name.name.clone());
            }
            kept.push((name, resource));
        }
        self.resources = kept;
    }
}

/// What a Cluster comes to in one process with its data in `data`, and what is said about it.
///
/// # Errors
/// More brokers than run in one process.
pub fn brokers(cluster: &Cluster, data: &Path) -> Result<(Brokers, Vec<String>), String> {
    let spec = &cluster.spec;
    let wanted: i64 = spec.pools.iter().map(|pool| i64::from(pool.replicas)).sum();
    let brokers = u8::try_from(wanted)
        .ok()
        .filter(|wanted| *wanted <= MOST_BROKERS);
    let brokers = brokers.ok_or_else(|| {
        format!("{wanted} brokers are wanted, and {MOST_BROKERS} is the most that run in one process: lower pools[].replicas")
    })?;
    let mut config = spec.config.clone();
    let mut notes = Vec::new();
    if let Some(tier) = &spec.tier {
        config.extend(tier.settings().map_err(|error| error.message)?);
        for elsewhere in ["tier.endpoint", "tier.region", "tier.credentials.dir"] {
            config.remove(elsewhere);
        }
        if !tier.url.starts_with("file:") {
            let bucket = format!("file://{}", data.join("bucket").display());
            notes.push(format!("Cluster: the bucket {} is {bucket} here", tier.url));
            config.insert("tier.url".to_owned(), bucket);
        }
    }
    let brokers = Brokers {
        brokers,
        voters: u8::try_from(spec.quorum.voters).unwrap_or(u8::MAX),
        settings: config.into_iter().collect(),
    };
    Ok((brokers, notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "apiVersion: tidemark.dev/v1alpha1\nkind: Cluster\nmetadata: {name: orders}\nspec: {pools: [{name: a, replicas: 3, storage: {size: 1Gi}}]}\n";

    fn topic(name: &str, of: &str, more: &str) -> String {
        format!(
            "---\napiVersion: tidemark.dev/v1alpha1\nkind: Topic\nmetadata: {{name: {name}}}\nspec: {{clusterRef: {{name: {of}}}{more}}}\n"
        )
    }

    fn contents(text: &str) -> Contents {
        read(text, &BTreeMap::new()).expect("YAML")
    }

    fn refused(text: &str) -> Vec<(String, &'static str)> {
        let refused = contents(text).refused.into_iter();
        refused
            .map(|(name, invalid)| (name.name, invalid.reason))
            .collect()
    }

    #[test]
    fn a_file_is_read_in_its_order_and_each_is_judged_alone() {
        let text = [
            CLUSTER.to_owned(),
            topic("b", "orders", ""),
            topic("a", "orders", ", partitions: 0"),
            topic("c", "other", ""),
            topic("d", "orders", ", topicName: b"),
            topic("b", "orders", ""),
            "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\n---\n".to_owned(),
        ];
        let text = text.concat();
        let contents = contents(&text);
        assert_eq!(
            contents.cluster().expect("one").metadata.name.as_deref(),
            Some("orders")
        );
        let topics: Vec<&str> = contents
            .topics()
            .map(|(name, _)| name.name.as_str())
            .collect();
        assert_eq!(topics, ["b"]);
        let wanted = [
            ("a", "InvalidSchema"),
            ("b", "GivenTwice"),
            ("c", "ClusterNotFound"),
            ("d", "NameTaken"),
        ];
        let mut found = refused(&text);
        found.sort();
        assert_eq!(
            found,
            wanted.map(|(name, reason)| (name.to_owned(), reason))
        );
        assert!(
            contents
                .notes
                .iter()
                .any(|note| note.starts_with("Secret s is passed over"))
        );
    }

    #[test]
    fn there_is_one_cluster() {
        assert!(
            contents("")
                .cluster()
                .expect_err("none")
                .contains("no Cluster")
        );
        let two = format!("{CLUSTER}---\n{}", CLUSTER.replace("orders", "audit"));
        assert!(
            contents(&two)
                .cluster()
                .expect_err("two")
                .contains("orders and audit")
        );
        assert!(read("a: [", &BTreeMap::new()).is_err());
        let list = format!(
            "kind: List\nitems:\n- {}",
            CLUSTER.trim_end().replace('\n', "\n  ")
        );
        assert!(contents(&list).cluster().is_ok());
    }

    #[test]
    fn what_may_not_change_is_held_against_what_was_there() {
        let before: BTreeMap<Name, Resource> = contents(&format!(
            "{CLUSTER}{}",
            topic("t", "orders", ", partitions: 3")
        ))
        .resources
        .into_iter()
        .collect();
        let text = format!("{CLUSTER}{}", topic("t", "orders", ", partitions: 2"));
        let contents = read(&text, &before).expect("YAML");
        assert_eq!(contents.refused[0].1.reason, "Immutable");
    }

    #[test]
    fn a_bucket_elsewhere_is_a_directory_here() {
        let with = |url: &str| {
            let settings = format!(
                "config: {{num.partitions: '3'}}, tier: {{url: '{url}', region: x}}, pools"
            );
            let text = CLUSTER.replace("pools", &settings);
            let contents = contents(&text);
            assert_eq!(contents.refused, [], "{text}");
            brokers(contents.cluster().expect("one"), Path::new("/d")).expect("few enough")
        };
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let (found, notes) = with("s3://bucket/prefix");
        assert_eq!((found.brokers, found.voters), (3, 3));
        assert_eq!(
            found.settings,
            [
                setting("num.partitions", "3"),
                setting("tier.url", "file:///d/bucket")
            ]
        );
        assert_eq!(notes.len(), 1);
        let (found, notes) = with("file:///tmp/b");
        assert!(
            found
                .settings
                .contains(&setting("tier.url", "file:///tmp/b"))
        );
        assert_eq!(notes, [""; 0]);
        let many = contents(&CLUSTER.replace("replicas: 3", "replicas: 10"));
        assert!(brokers(many.cluster().expect("one"), Path::new("/d")).is_err());
    }
}
