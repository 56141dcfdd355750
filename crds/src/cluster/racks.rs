//! `spec.racks`: where brokers are.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Where brokers are: each new one is given the rack with the fewest, is scheduled there alone, and
/// tells it (broker.rack), so that replicas of a partition are in different ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Racks {
    /// The label of nodes that says where they are.
    #[serde(default = "zone")]
    #[schemars(
        length(min = 1, max = 317),
        regex(
            pattern = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
        )
    )]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("racks.topologyKey cannot change: brokers are bound to where they are"))]
    pub topology_key: String,
    /// The values of that label that brokers are spread over. More can be added; brokers that are there
    /// stay where they are.
    #[schemars(
        length(min = 1, max = 32),
        inner(
            length(min = 1, max = 63),
            regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
        )
    )]
    pub values: Vec<String>,
}

fn zone() -> String {
    "topology.kubernetes.io/zone".to_owned()
}
