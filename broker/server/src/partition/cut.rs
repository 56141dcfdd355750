//! Cutting a log as its leader says: records off its end, or all of it.

use super::is_full;
use super::role::generation;
use super::{Closed, Partition};
use std::sync::Arc;
use std::time::Duration;
use tidemark_env::{clock, task};
use tidemark_log::{Log, LogError, PendingCut, PlacedProducers, ProducersSnapshot};
use tidemark_replication::{Action, Event};
use tidemark_wal::Failure;

/// A log that is to be cut is looked at again after this while its files are being written.
const SETTLE_RETRY: Duration = Duration::from_millis(5);
/// And after this while there is no room for them.
const FULL_RETRY: Duration = Duration::from_millis(200);

impl Partition {
    /// Cuts the log as the replica asked: when all that was appended is in the files, the
    /// write-ahead log hears of it, and then the files change. A log that begins anew is given the
    /// `producers` that its leader knows there.
    pub(super) async fn cut(self: Arc<Self>, action: Action, producers: Option<ProducersSnapshot>) {
        let cut = loop {
            match self.try_cut(&action, producers.as_ref()).await {
                Ok(Some(event)) => break event,
                // Closed meanwhile.
                Ok(None) => return,
                // Nothing has begun: what waits to be written has no room yet.
                Err(LogError::Io(error)) if is_full(&error) && self.failure().is_none() => {
                    clock::sleep(FULL_RETRY).await;
                }
                Err(error) => {
                    tracing::error!(topic = %self.topic, partition = self.index, %error, "the log cannot be cut as its leader says");
                    let (partition, reason) = (Arc::clone(&self), error.to_string());
                    let failing = task::blocking(move || partition.dir.log_failed(&error));
                    if failing.await.is_err() {
                        self.disk_failed(&reason);
                    }
                    return;
                }
            }
        };
        let mut state = self.lock();
        if state.log.is_some() {
            // Where that was to be may lie above the end now; the leader will say it again.
            state.waits.set_raise_to(0);
            self.step(&mut state, cut);
            if let Some((fetcher, slot)) = &state.following {
                fetcher.signal.mark(*slot);
            }
        }
    }

    async fn try_cut(
        self: &Arc<Self>,
        action: &Action,
        producers: Option<&ProducersSnapshot>,
    ) -> Result<Option<Event>, LogError> {
        let failed = |failure: Failure| LogError::Failed {
            reason: failure.to_string(),
        };
        let placed = match (action, producers) {
            (Action::Reset { to }, Some(producers)) => {
                let Ok(place) = self.with_log(|log, _| log.producers_place(*to)) else {
                    return Ok(None);
                };
                let producers = producers.clone();
                let placing = task::blocking(move || place.put(&producers));
                let placed = placing.await;
                Some(placed.map_err(|error| LogError::Io(std::io::Error::other(error)))??)
            }
            _ => None,
        };
        let (pending, end) = loop {
            let touched = self.lock().touched;
            self.dir.wal.when_durable(touched).await.map_err(failed)?;
            let partition = Arc::clone(self);
            let written = task::blocking(move || partition.write_behind(u64::MAX)).await;
            written.map_err(|error| LogError::Io(std::io::Error::other(error)))??;
            let begun = self.with_log(|log, _| {
                let end = log.end_offset();
                begin_cut(log, action, placed.as_ref()).map(|pending| (pending, end))
            });
            match begun {
                Err(Closed) => return Ok(None),
                Ok(Ok(begun)) => break begun,
                Ok(Err(LogError::Unsettled)) => clock::sleep(SETTLE_RETRY).await,
                Ok(Err(error)) => return Err(error),
            }
        };
        if let Some(lsn) = pending.lsn {
            self.dir.wal.when_durable(lsn).await.map_err(failed)?;
        }
        let partition = Arc::clone(self);
        let finished = task::blocking(move || {
            let mut state = partition.lock();
            let log = state.log.as_mut()?;
            Some(finish_cut(log, pending))
        });
        let finished = finished.await;
        let finished = finished.map_err(|error| LogError::Io(std::io::Error::other(error)))?;
        let finished = finished.transpose()?;
        if let Some(Event::Truncated { end_offset, .. }) = &finished {
            let cut = u64::try_from(end.saturating_sub(*end_offset)).unwrap_or(0);
            tracing::debug!(topic = %self.topic, partition = self.index, cut, "a log is cut");
            self.topic.replicas.metrics.truncated_records.inc_by(cut);
        }
        Ok(finished)
    }
}

fn begin_cut(
    log: &mut Log,
    action: &Action,
    producers: Option<&PlacedProducers>,
) -> Result<PendingCut, LogError> {
    match action {
        Action::Reset { to } => log.begin_reset(*to, producers),
        Action::Truncate { to } => log.begin_truncate(*to),
        _ => Err(LogError::Unsettled),
    }
}

fn finish_cut(log: &mut Log, pending: PendingCut) -> Result<Event, LogError> {
    let end_offset = log.finish_cut(pending, clock::now_ms())?;
    let generation = generation(log);
    if log.epochs().entries().is_empty() && log.log_start_offset() == end_offset {
        let offset = end_offset;
        return Ok(Event::Reset { offset, generation });
    }
    Ok(Event::Truncated {
        end_offset,
        durable_end: log.durable_offset(),
        generation,
    })
}
