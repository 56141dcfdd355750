//! Is the metadata kept by as many as it should be?

use tidemark_client::admin::Quorum;
use tidemark_env::clock;

use super::{Check, Finding, Patient};
use crate::output::plural;
use crate::when::format_duration;

/// A voter that had everything within this time is well.
const BEHIND_MS: i64 = 15_000;

/// Asks the controller.
pub async fn check(patient: &Patient<'_>) -> Check {
    match patient.cluster.describe_quorum().await {
        Ok(quorum) => {
            let seen = format!(
                "node {} leads {}",
                quorum.leader,
                plural(quorum.voters.len() as i64, "voter")
            );
            Check::new("quorum", seen, judge(&quorum, clock::now_ms()))
        }
        // Kafka before KRaft has none.
        Err(error) if error.code() == Some(tidemark_wire::ErrorCode::UnsupportedVersion) => {
            Check::new("quorum", "this cluster has none", Vec::new())
        }
        Err(error) => Check::new(
            "quorum",
            "",
            vec![Finding::new(
                "the controller cannot be asked",
                format!("without one no leader is elected and no topic made: {error}"),
                "tidemark cluster quorum describe",
            )],
        ),
    }
}

fn judge(quorum: &Quorum, now_ms: i64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let voters = quorum.voters.len();
    let behind: Vec<_> = quorum
        .voters
        .iter()
        .filter(|voter| voter.id != quorum.leader && voter.log_end < quorum.high_watermark)
        .filter(|voter| now_ms.saturating_sub(voter.last_caught_up_ms) > BEHIND_MS)
        .collect();
    for voter in &behind {
        let since = match voter.last_caught_up_ms {
            -1 => "has not been seen to have all metadata".to_owned(),
            at => format!(
                "has not had all metadata for {}",
                format_duration(now_ms.saturating_sub(at))
            ),
        };
        findings.push(Finding::new(
            format!("voter {} {since}", voter.id),
            format!(
                "of {voters} voters {} may be away before nothing can be changed any more, and it counts as one",
                voters.saturating_sub(1) / 2
            ),
            "tidemark cluster quorum describe",
        ));
    }
    if voters > 1 && voters.is_multiple_of(2) {
        findings.push(Finding::new(
            format!("{voters} voters keep the metadata"),
            format!("an even number bears no more losses than {}", voters - 1),
            "tidemark cluster quorum remove, or add",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use tidemark_client::admin::QuorumReplica;
    use tidemark_wire::Uuid;

    use super::*;

    fn quorum(voters: &[(i32, i64, i64)]) -> Quorum {
        let voter = |(id, log_end, last_caught_up_ms): &(i32, i64, i64)| QuorumReplica {
            id: *id,
            directory: Uuid::ZERO,
            log_end: *log_end,
            last_fetch_ms: *last_caught_up_ms,
            last_caught_up_ms: *last_caught_up_ms,
        };
        Quorum {
            leader: 1,
            epoch: 1,
            high_watermark: 100,
            voters: voters.iter().map(voter).collect(),
            observers: Vec::new(),
            addresses: Default::default(),
        }
    }

    #[test]
    fn a_voter_that_is_behind_for_long_is_found() {
        let now_ms = 1_000_000;
        assert_eq!(
            judge(
                &quorum(&[(1, 100, -1), (2, 100, -1), (3, 90, now_ms - 5_000)]),
                now_ms
            ),
            []
        );
        let found = judge(
            &quorum(&[(1, 100, -1), (2, 100, -1), (3, 90, now_ms - 60_000)]),
            now_ms,
        );
        assert_eq!(found[0].what, "voter 3 has not had all metadata for 1m");
        let found = judge(&quorum(&[(1, 100, -1), (2, 100, -1)]), now_ms);
        assert!(found[0].why.contains("no more losses than 1"));
    }
}
