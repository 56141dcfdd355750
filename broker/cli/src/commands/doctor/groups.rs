//! Does every group get on with what it has?

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_client::admin::OffsetSpec;
use tidemark_client::{ClientError, TopicPartition};
use tidemark_env::clock;

use super::{Check, Finding, Patient};
use crate::output::{count, plural};

/// Groups looked at; on a large cluster the first ones must do.
const MOST_GROUPS: usize = 200;
/// How long a group may take to commit once: most clients do every five seconds.
const PATIENCE_MS: i64 = 12_000;
/// How often they are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// A group with members that has something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Busy {
    group: String,
    members: usize,
    lag: i64,
    committed: BTreeMap<TopicPartition, i64>,
}

/// Looks at groups that have members and lag until each has got on, or time is over.
pub async fn check(patient: &Patient<'_>) -> Check {
    let (groups, mut busy) = match begin(patient).await {
        Ok(found) => found,
        Err(error) => return Check::new("groups", format!("not looked at: {error}"), Vec::new()),
    };
    let begun_ms = clock::steady_ms();
    while !busy.is_empty() && clock::steady_ms() - begun_ms < PATIENCE_MS {
        clock::sleep(LOOK).await;
        let mut still = Vec::new();
        for group in busy {
            match look(patient, &group.group).await {
                Ok(Some(now)) if now.committed == group.committed => still.push(group),
                // It got on, or has nothing to do any more.
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, group = group.group, "not looked at"),
            }
        }
        busy = still;
    }
    let seen = format!("{}, those with lag get on", plural(groups as i64, "group"));
    Check::new("groups", seen, busy.iter().map(stuck).collect())
}

async fn begin(patient: &Patient<'_>) -> Result<(usize, Vec<Busy>), ClientError> {
    let groups = patient.cluster.list_groups().await?;
    let mut busy = Vec::new();
    for group in groups.iter().take(MOST_GROUPS) {
        busy.extend(look(patient, &group.group).await?);
    }
    Ok((groups.len(), busy))
}

async fn look(patient: &Patient<'_>, group: &str) -> Result<Option<Busy>, ClientError> {
    let Some(found) = patient.cluster.describe_group(group).await? else {
        return Ok(None);
    };
    if found.members.is_empty() {
        return Ok(None);
    }
    let offsets = patient.cluster.group_offsets(group).await?;
    let committed: BTreeMap<TopicPartition, i64> = offsets
        .into_iter()
        .map(|(tp, committed)| (tp, committed.offset))
        .collect();
    let wanted = committed.keys().map(|tp| (tp.clone(), OffsetSpec::Latest));
    let ends = patient
        .cluster
        .list_offsets(&wanted.collect(), false)
        .await?;
    let lag = committed.iter().map(|(tp, offset)| {
        let end = ends.get(tp).map_or(*offset, |listed| listed.offset);
        end.saturating_sub(*offset).max(0)
    });
    let lag: i64 = lag.sum();
    Ok((lag > 0).then(|| Busy {
        group: group.to_owned(),
        members: found.members.len(),
        lag,
        committed,
    }))
}

fn stuck(group: &Busy) -> Finding {
    Finding::new(
        format!(
            "group {} has {}, {} records to read, and has committed nothing for {} s",
            group.group,
            plural(group.members as i64, "member"),
            count(group.lag),
            PATIENCE_MS / 1_000
        ),
        "its members hang, fail at the same record again and again, or commit very seldom",
        format!("tidemark group describe {} --members", group.group),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_stands_still_is_told() {
        let group = Busy {
            group: "billing".into(),
            members: 2,
            lag: 1_500,
            committed: BTreeMap::new(),
        };
        let finding = stuck(&group);
        assert_eq!(
            finding.what,
            "group billing has 2 members, 1,500 records to read, and has committed nothing for 12 s"
        );
    }
}
