//! Waiting until moves of replicas are through.

use std::collections::BTreeSet;
use std::time::Duration;

use tidemark_client::{ClientError, Cluster, TopicPartition};
use tidemark_env::clock;

use crate::failure::Failure;
use crate::output::{ids, plural};
use crate::progress::Progress;

/// How often it is looked.
const POLL: Duration = Duration::from_millis(500);

/// Waits until none of these partitions is being moved, and says meanwhile what is waited for.
/// Stopped with Ctrl-C, the moves go on.
pub async fn until_moved(cluster: &Cluster, partitions: &[TopicPartition]) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let mut last_answer = clock::monotonic();
    loop {
        match cluster.reassignments(Some(partitions)).await {
            Ok(left) if left.is_empty() => break,
            Ok(left) => {
                last_answer = clock::monotonic();
                progress.update(|| {
                    let first = left.first();
                    let example = first.map_or(String::new(), |one| match one.adding.is_empty() {
                        true => format!("{} leaves broker {}", one.partition, ids(&one.removing)),
                        false => format!(
                            "{} is being copied to broker {}",
                            one.partition,
                            ids(&one.adding)
                        ),
                    });
                    let waited_for: BTreeSet<i32> = left
                        .iter()
                        .flat_map(|one| one.adding.iter().copied())
                        .collect();
                    let waited_for: Vec<i32> = waited_for.into_iter().collect();
                    format!(
                        "{} left; waiting for broker {}; {example}",
                        plural(left.len() as i64, "partition"),
                        ids(&waited_for)
                    )
                });
            }
            // Another controller takes over now and then.
            Err(error) if passes(&error) && last_answer.elapsed() < cluster.options().retry_for => {
            }
            Err(error) => {
                progress.clear();
                return Err(error.into());
            }
        }
        clock::sleep(POLL).await;
    }
    progress.clear();
    Ok(())
}

fn passes(error: &ClientError) -> bool {
    error.is_retriable() || error.is_unreachable()
}
