//! Who begins a cluster.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemark_crds::Cluster;

use super::{formation_name, labels, lasting};

/// The annotation of the formation that says who votes now, where that is not who voted first.
pub const VOTERS: &str = "tidemark.dev/voters";

/// The annotation of the formation that says what came back of another cluster's bucket.
pub const REPORT: &str = "tidemark.dev/restored";

/// The annotation of the formation that names the brokers whose disks have been in use: with another
/// claim they have lost theirs.
pub const USED: &str = "tidemark.dev/used-disks";
/// The annotation of the formation that names the brokers whose first disks were replaced: they begin
/// no quorum any more.
pub const REPLACED: &str = "tidemark.dev/replaced-disks";
/// The annotation of the formation that says whose disk is being replaced.
pub const REPLACING: &str = "tidemark.dev/replacing-disk";

/// The annotation of the formation that says in which rack each broker is.
pub const RACKS: &str = "tidemark.dev/racks";

/// The annotation of the formation that names the settings of all brokers that are the spec's: by
/// this the spec takes back what it gives up.
pub const LIVE: &str = "tidemark.dev/live-settings";

/// A disk that is being replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacing {
    /// Whose.
    pub broker: i32,
    /// The uid of the claim that goes; none where it is gone.
    pub claim: Option<String>,
    /// There is another claim, and the broker may start on it.
    pub made: bool,
}

/// Who begins the cluster: chosen once, by the operator, and never changed; and who votes now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formation {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its first voters: broker and directory id.
    pub first: Vec<(i32, String)>,
    /// Those that are to vote now.
    pub voters: BTreeSet<i32>,
    /// What the first voters are formatted with, where the cluster begins with what another one's
    /// bucket holds; empty otherwise.
    pub restore: Vec<String>,
    /// What came back of it, as the voters told.
    pub report: Option<String>,
    /// Those whose disks have been in use.
    pub used: BTreeSet<i32>,
    /// Those whose first disks were replaced.
    pub replaced: BTreeSet<i32>,
    /// The disk that is being replaced.
    pub replacing: Option<Replacing>,
    /// The rack of each broker that has one.
    pub racks: BTreeMap<i32, String>,
    /// The settings of all brokers that the spec has set while they ran.
    pub live: BTreeSet<String>,
}

impl Formation {
    /// A formation whose first voters are still the voters.
    #[must_use]
    pub fn new(cluster_id: String, first: Vec<(i32, String)>) -> Self {
        let voters = first.iter().map(|(id, _)| *id).collect();
        Self {
            cluster_id,
            first,
            voters,
            restore: Vec::new(),
            report: None,
            used: BTreeSet::new(),
            replaced: BTreeSet::new(),
            replacing: None,
            racks: BTreeMap::new(),
            live: BTreeSet::new(),
        }
    }

    /// Whether somebody else votes than at first.
    pub(super) fn changed(&self) -> bool {
        !self.first.iter().map(|(id, _)| id).eq(&self.voters)
    }
}

/// The formation, which nothing changes.
#[must_use]
pub fn formation(cluster: &Cluster, formation: &Formation) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": lasting(cluster, &formation_name(cluster), &labels(cluster)),
        "immutable": true,
        "data": {
            "cluster-id": formation.cluster_id,
            "voters": json!(formation.first).to_string(),
        },
    });
    if !formation.restore.is_empty() {
        object["data"]["restore"] = json!(json!(formation.restore).to_string());
    }
    object
}

/// Reads what [`formation`] wrote, and what was written beside it since: who votes, what came back.
#[must_use]
pub fn read_formation(map: &ConfigMap) -> Option<Formation> {
    let data = map.data.as_ref()?;
    let first = serde_json::from_str(data.get("voters")?).ok()?;
    let mut formation = Formation::new(data.get("cluster-id")?.clone(), first);
    if let Some(voters) = map.annotations().get(VOTERS) {
        formation.voters = serde_json::from_str(voters).ok()?;
    }
    if let Some(restore) = data.get("restore") {
        formation.restore = serde_json::from_str(restore).ok()?;
    }
    let noted = map.annotations();
    formation.report = noted.get(REPORT).cloned();
    if let Some(used) = noted.get(USED) {
        formation.used = serde_json::from_str(used).ok()?;
    }
    if let Some(replaced) = noted.get(REPLACED) {
        formation.replaced = serde_json::from_str(replaced).ok()?;
    }
    if let Some(racks) = noted.get(RACKS) {
        formation.racks = serde_json::from_str(racks).ok()?;
    }
    if let Some(live) = noted.get(LIVE) {
        formation.live = serde_json::from_str(live).ok()?;
    }
    if let Some(replacing) = noted.get(REPLACING) {
        formation.replacing = Some(serde_json::from_str(replacing).ok()?);
    }
    Some(formation)
}
