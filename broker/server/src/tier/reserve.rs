//! While the bucket takes nothing, local retention stretches into a reserve of each disk; near
//! its end producers to tiered topics are slowed, and at its end refused.
//!
//! What is counted is what local retention would have deleted, if the bucket had it. It is looked
//! at in every round, so producers go on within a second of the bucket taking records again.

use super::{TELL_AGAIN_MS, Tier};
use crate::broker::Broker;
use crate::partition::Partition;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_env::disk::Space;
use tidemark_env::{clock, task};

/// The most that an answer is held back: well below the timeouts of clients.
const SLOWEST_MS: u128 = 1_000;
/// This part of a disk is left free, where the reserve has no size of its own: a tenth.
const LEFT_FREE: u64 = 10;
/// Or this part of the room that there is, where that is less: half. Segments always wait for the
/// bucket for a moment, and a disk that is nearly full is no reason to refuse them meanwhile.
const LEFT_OF_ROOM: u64 = 2;

/// What producers have to put up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Brake {
    /// Nothing.
    #[default]
    Off,
    /// Their answers are held back so long, in milliseconds.
    Slow(i64),
    /// Nothing more is taken.
    Refuse,
}

impl Brake {
    /// With so many bytes held back, and a reserve of so many.
    fn of(held_back: u64, reserve: u64) -> Brake {
        if held_back == 0 {
            return Brake::Off;
        }
        if held_back >= reserve {
            return Brake::Refuse;
        }
        // In quarters of the reserve: from the third to the fourth it becomes slower.
        let (held_back, reserve) = (u128::from(held_back), u128::from(reserve));
        let Some(beyond) = (4 * held_back).checked_sub(3 * reserve) else {
            return Brake::Off;
        };
        let slow_ms = beyond * SLOWEST_MS / reserve;
        Brake::Slow(i64::try_from(slow_ms).unwrap_or(0).max(1))
    }
}

/// A partition's brake, as produce requests read it.
#[derive(Debug, Default)]
pub(super) struct BrakeCell(AtomicI64);

impl BrakeCell {
    const REFUSE: i64 = -1;

    pub(super) fn get(&self) -> Brake {
        match self.0.load(Ordering::Relaxed) {
            0 => Brake::Off,
            Self::REFUSE => Brake::Refuse,
            slow_ms => Brake::Slow(slow_ms),
        }
    }

    pub(super) fn set(&self, brake: Brake) {
        let coded = match brake {
            Brake::Off => 0,
            Brake::Slow(ms) => ms,
            Brake::Refuse => Self::REFUSE,
        };
        self.0.store(coded, Ordering::Relaxed);
    }
}

/// A directory's reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reserve {
    /// Bytes that only wait for the bucket.
    pub(crate) held_back_bytes: u64,
    /// How many there may be.
    pub(crate) reserve_bytes: u64,
}

impl Reserve {
    /// `configured` bytes, or all that can be taken with a part of the disk left free.
    fn new(held_back_bytes: u64, configured: Option<u64>, space: Option<Space>) -> Reserve {
        let left = |space: Space| {
            // What would be free if the bucket had everything: it stays the same while more waits.
            let room = held_back_bytes.saturating_add(space.free_bytes);
            room - (space.total_bytes / LEFT_FREE).min(room / LEFT_OF_ROOM)
        };
        // A disk that cannot be asked fails in other ways.
        let reserve_bytes = configured.or(space.map(left)).unwrap_or(u64::MAX);
        Reserve {
            held_back_bytes,
            reserve_bytes,
        }
    }

    fn brake(self) -> Brake {
        Brake::of(self.held_back_bytes, self.reserve_bytes)
    }
}

/// What was found in the last round.
#[derive(Debug, Default)]
pub(super) struct Reserves {
    by_dir: Mutex<BTreeMap<PathBuf, Reserve>>,
    told_ms: AtomicI64,
}

impl Reserves {
    /// By directory.
    pub(super) fn all(&self) -> BTreeMap<PathBuf, Reserve> {
        super::lock(&self.by_dir).clone()
    }
}

impl Tier {
    /// Looks how much waits for the bucket, and sets the brakes of the partitions of which it
    /// lacks something.
    pub(super) async fn look_at_reserves(&self, broker: &Broker, behind: Vec<Arc<Partition>>) {
        let configured = u64::try_from(self.settings.reserve_bytes).ok();
        let dirs = broker.partitions.log_dirs();
        let mut held_back: BTreeMap<PathBuf, u64> = dirs
            .iter()
            .map(|dir| (dir.path().to_path_buf(), 0))
            .collect();
        let (held_back, behind) = if behind.is_empty() {
            (held_back, behind)
        } else {
            let looking = task::blocking(move || {
                let now_ms = clock::now_ms();
                for partition in &behind {
                    let of_dir = held_back
                        .entry(partition.dir().path().to_path_buf())
                        .or_default();
                    *of_dir += held_back_bytes(partition, now_ms);
                }
                (held_back, behind)
            });
            match looking.await {
                Ok(looked) => looked,
                Err(error) => {
                    tracing::error!(%error, "it is not known what waits for the bucket");
                    return;
                }
            }
        };
        let disk = broker.partitions.disk();
        let reserves: BTreeMap<PathBuf, Reserve> = held_back
            .into_iter()
            .map(|(dir, bytes)| {
                let reserve = Reserve::new(bytes, configured, disk.space(&dir).ok());
                (dir, reserve)
            })
            .collect();
        for partition in &behind {
            let reserve = reserves.get(partition.dir().path());
            let brake = reserve.map_or(Brake::Off, |reserve| reserve.brake());
            partition.cold.brake.set(brake);
        }
        self.tell(&reserves);
        *super::lock(&self.reserves.by_dir) = reserves;
    }

    /// Logs when a brake is put on or taken off, and each minute how much waits.
    fn tell(&self, now: &BTreeMap<PathBuf, Reserve>) {
        let before = self.reserves.all();
        let steady_ms = clock::steady_ms();
        let due = steady_ms - self.reserves.told_ms.load(Ordering::Relaxed) >= TELL_AGAIN_MS;
        for (dir, reserve) in now {
            let (directory, held_back_bytes) = (dir.display(), reserve.held_back_bytes);
            let reserve_bytes = reserve.reserve_bytes;
            let was = before.get(dir).map_or(Brake::Off, |before| before.brake());
            let changed = std::mem::discriminant(&was) != std::mem::discriminant(&reserve.brake());
            match reserve.brake() {
                Brake::Off if changed => tracing::info!(
                    %directory, held_back_bytes, reserve_bytes,
                    "producers to tiered topics are served as before"
                ),
                // Segments always wait for a moment.
                Brake::Off if due && held_back_bytes > reserve_bytes / 10 => tracing::warn!(
                    %directory, held_back_bytes, reserve_bytes,
                    "records that only wait for the bucket take room on the disk"
                ),
                Brake::Off => {}
                Brake::Slow(_) if changed || due => tracing::warn!(
                    %directory, held_back_bytes, reserve_bytes,
                    "records wait for the bucket: producers to tiered topics are slowed"
                ),
                Brake::Refuse if changed || due => tracing::error!(
                    %directory, held_back_bytes, reserve_bytes,
                    "records wait for the bucket and tier.reserve.bytes is used up: producers to \
                     tiered topics are refused until it takes some"
                ),
                Brake::Slow(_) | Brake::Refuse => {}
            }
        }
        if due {
            self.reserves.told_ms.store(steady_ms, Ordering::Relaxed);
        }
    }
}

fn held_back_bytes(partition: &Partition, now_ms: i64) -> u64 {
    let end = partition.cold.range().map_or(0, |(_, end)| end);
    let held_back =
        partition.with_log(|log, high_watermark| log.held_back_bytes(now_ms, *high_watermark, end));
    match held_back {
        Ok(Ok(bytes)) => bytes,
        // It says so elsewhere.
        Ok(Err(_)) | Err(_) => 0,
    }
}

/// The brake of a request: the hardest of those of its partitions.
pub(crate) fn slower(one: Duration, brake: Brake) -> Duration {
    match brake {
        Brake::Slow(ms) => one.max(Duration::from_millis(ms.unsigned_abs())),
        Brake::Off | Brake::Refuse => one,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_are_slowed_near_the_end_of_the_reserve_and_refused_at_it() {
        assert_eq!(Brake::of(0, 0), Brake::Off, "nothing waits");
        assert_eq!(Brake::of(74, 100), Brake::Off);
        assert_eq!(Brake::of(75, 100), Brake::Slow(1));
        assert_eq!(Brake::of(80, 100), Brake::Slow(200));
        assert_eq!(Brake::of(99, 100), Brake::Slow(960));
        assert_eq!(Brake::of(100, 100), Brake::Refuse);
        assert_eq!(Brake::of(1, 0), Brake::Refuse);
    }

    #[test]
    fn without_a_size_the_reserve_is_what_leaves_a_tenth_of_the_disk_free() {
        let space = |free_bytes| {
            Some(Space {
                total_bytes: 1000,
                free_bytes,
            })
        };
        let reserve = |held_back, free| Reserve::new(held_back, None, space(free)).reserve_bytes;
        assert_eq!(reserve(0, 500), 400);
        assert_eq!(reserve(300, 200), 400, "what is used of it counts");
        assert_eq!(Reserve::new(300, None, space(90)).brake(), Brake::Refuse);
        assert_eq!(Reserve::new(0, None, space(90)).brake(), Brake::Off);
        assert_eq!(Reserve::new(7, Some(10), space(0)).reserve_bytes, 10);
        assert_eq!(Reserve::new(7, None, None).brake(), Brake::Off);
    }

    #[test]
    fn a_disk_that_is_nearly_full_takes_half_of_its_room_for_the_bucket() {
        let of = |held_back, free_bytes| {
            let space = Space {
                total_bytes: 1000,
                free_bytes,
            };
            Reserve::new(held_back, None, Some(space))
        };
        assert_eq!(of(1, 89).brake(), Brake::Off, "a segment on its way");
        assert_eq!(of(1, 89).reserve_bytes, 45);
        assert_eq!(of(40, 50).reserve_bytes, 45, "what is used of it counts");
        assert_eq!(of(40, 50).brake(), Brake::Slow(555));
        assert_eq!(of(45, 45).brake(), Brake::Refuse);
        let reserves: Vec<u64> = (0..1000).map(|room| of(0, room).reserve_bytes).collect();
        assert!(reserves.is_sorted(), "more room is never less of it");
    }
}
