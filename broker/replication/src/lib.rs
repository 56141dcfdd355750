//! One replica of one partition: whether it leads or follows, and what that asks of it.
//!
//! A [`Replica`] is told what happens ([`Event`]) and says what to do ([`Action`]). It knows
//! the log by a few numbers and its list of leader epochs, and other brokers by what they
//! report. It has no clock, no chance and no I/O. The shell that drives it appends, syncs,
//! cuts and sends, and tells what came of it, in the order in which it came.
//!
//! One shell drives one replica, under the partition's lock:
//!
//! - what the log does is told before anything else is asked: [`Event::Appended`] with every
//!   append, [`Event::Durable`] with every group that the disk has;
//! - [`Action`]s are carried out in their order, and those that reach for the disk answer
//!   with an event of their own when they are durable;
//! - until [`Action::Serve`], requests that were told to wait are kept; at
//!   [`Action::HighWatermark`] producers, consumers and parked fetches of followers are looked
//!   through; at [`Action::StopLeading`] they are all ended.
//!
//! **Invariant:** the high watermark covers only what every member of an ISR of at least
//! `min.insync.replicas` has on its disk, and no replica cuts off anything below its own,
//! unless the metadata marks its leader as elected uncleanly.
//!
//! Kafka's rules, where they apply: leader epochs and divergence (KIP-101, KIP-279, KIP-320),
//! ISR changes (KIP-497, KIP-903), eligible leader replicas (KIP-966), reads from followers
//! (KIP-392), offsets of new leaders (KIP-207). What differs: the high watermark and the ISR
//! go by what is durable, not by what is appended.

mod epochs;
mod event;
mod follower;
mod leader;
mod log;
mod read;
mod replica;
mod throttle;
mod view;

#[cfg(test)]
mod tests;

pub use epochs::{EpochEnd, EpochStart, Epochs};
pub use event::{
    Action, Diverging, DurableReport, Event, FetchAnswer, FetchDecision, FetchOutcome, FetchPlan,
    FollowerFetch, OfflineReason, Proposal,
};
pub use leader::AckState;
pub use log::LogState;
pub use read::{ConsumerFetch, Rack, preferred_read_replica};
pub use replica::{Common, Identity, Refusal, Replica, RoleName, Settings};
pub use throttle::Throttle;
pub use view::{BrokerView, PartitionView};
