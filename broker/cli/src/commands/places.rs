//! Where a place is in each of many partitions: asks the brokers what is needed for it, no more.

use std::collections::BTreeMap;

use tidemark_client::admin::OffsetSpec;
use tidemark_client::{ClientError, Cluster, TopicPartition};

use crate::position::{Bounds, Place, locate};

/// A place found in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// Its offset.
    pub offset: i64,
    /// It had to be moved into the log.
    pub moved: bool,
    /// What was known of the partition.
    pub bounds: Bounds,
}

/// Finds `place` in all `partitions`; `current` is where one is now, for places that count from there.
pub async fn locate_all(
    cluster: &Cluster,
    partitions: &[TopicPartition],
    place: Place,
    current: &BTreeMap<TopicPartition, i64>,
    read_committed: bool,
) -> Result<BTreeMap<TopicPartition, Located>, ClientError> {
    let ask = |spec: OffsetSpec| {
        partitions
            .iter()
            .map(move |tp| (tp.clone(), spec))
            .collect()
    };
    let starts = cluster
        .list_offsets(&ask(OffsetSpec::Earliest), read_committed)
        .await?;
    let ends = cluster
        .list_offsets(&ask(OffsetSpec::Latest), read_committed)
        .await?;
    let at_time = match place {
        Place::Time(ms) => {
            cluster
                .list_offsets(&ask(OffsetSpec::AtTime(ms)), read_committed)
                .await?
        }
        _ => BTreeMap::new(),
    };
    let mut located = BTreeMap::new();
    for (tp, start) in starts {
        let bounds = Bounds {
            start: start.offset,
            end: ends.get(&tp).map_or(start.offset, |end| end.offset),
            current: current.get(&tp).copied(),
            at_time: at_time
                .get(&tp)
                .map(|found| found.offset)
                .filter(|offset| *offset >= 0),
        };
        let (offset, moved) = locate(place, bounds);
        located.insert(
            tp,
            Located {
                offset,
                moved,
                bounds,
            },
        );
    }
    Ok(located)
}
