//! Formatting as the operator says: who begins the cluster stands in a file that it writes.

use std::path::Path;

use serde::Deserialize;
use tidemark_config::BrokerSettings;
use tidemark_server::{Formatted, InitialVoter, Voters};

use super::{format, parse_id, parse_voter, read};
use crate::commands::tier::Restoring;
use crate::failure::Failure;

/// Who begins a cluster, as the operator writes it for each broker.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Formation {
    cluster_id: String,
    /// The voters, where this broker is one of them.
    voters: Vec<String>,
    /// False once the broker was in the cluster: an empty disk is a lost one from then on.
    may_format: bool,
    /// True while the broker is to get a vote: the quorum's directory may be missing, and nothing
    /// else.
    #[serde(default)]
    may_join_quorum: bool,
}

/// Formats by a formation, unless that was done.
pub async fn format_by(
    path: &Path,
    settings: &BrokerSettings,
    restore: Option<&Restoring>,
) -> Result<Formatted, Failure> {
    let shown = path.display().to_string();
    let text = crate::input::read_text(path).map_err(|error| Failure::file(&shown, &error))?;
    let wrong = |error: String| Failure::usage(format!("{shown}: {error}"));
    let formation: Formation =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let cluster_id = parse_id(&formation.cluster_id).map_err(wrong)?;
    let voters: Result<Vec<InitialVoter>, String> =
        formation.voters.iter().map(|v| parse_voter(v)).collect();
    let voters = match voters.map_err(wrong)? {
        none if none.is_empty() => Voters::Others,
        voters => Voters::Initial(voters),
    };
    let formatted = match read(settings).await? {
        Ok(formatted) => formatted,
        Err(unformatted)
            if formation.may_join_quorum
                && unformatted.0 == [tidemark_server::quorum_dir(settings)] =>
        {
            format(settings, Some(cluster_id), Voters::Others, None).await?
        }
        Err(unformatted) if !formation.may_format => {
            return Err(Failure::finding(format!(
                "{unformatted}, though this broker was in the cluster: its disk is lost, and an empty one must not vote in its place"
            )));
        }
        Err(_) => {
            // The metadata come from those that begin the quorum.
            let restore = restore.filter(|_| voters != Voters::Others);
            format(settings, Some(cluster_id), voters, restore).await?
        }
    };
    if formatted.cluster_id != cluster_id {
        return Err(Failure::finding(format!(
            "the disk is of cluster {}, and not of {cluster_id}",
            formatted.cluster_id
        )));
    }
    Ok(formatted)
}
