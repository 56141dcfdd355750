//! What a replica is told, and what it asks for.

use tidemark_model::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch};

use crate::view::PartitionView;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The metadata changed, or was read for the first time.
    Image(PartitionView),
    /// Records of one leader epoch were appended.
    Appended {
        /// Their epoch.
        epoch: LeaderEpoch,
        /// Offset of the first, the log's end until now.
        base_offset: Offset,
        /// The log's end.
        end_offset: Offset,
    },
    /// A write became durable, with everything before it.
    Durable {
        /// Offset after the last record it held.
        end_offset: Offset,
        /// The log's generation when it was written.
        generation: i64,
    },
    /// The start of an epoch, asked for by [`Action::StartEpoch`], is durable, and so is
    /// every record before it.
    EpochStartDurable {
        /// The epoch.
        epoch: LeaderEpoch,
    },
    /// The log was cut at its end, durably.
    Truncated {
        /// Its end.
        end_offset: Offset,
        /// What of it is durable.
        durable_end: Offset,
        /// Its new generation.
        generation: i64,
    },
    /// The log was emptied and begins elsewhere, durably.
    Reset {
        /// Where.
        offset: Offset,
        /// Its new generation.
        generation: i64,
    },
    /// The log start was raised, by retention or a person.
    LogStart {
        /// To where.
        offset: Offset,
    },
    /// The log's disk failed.
    LogFailed,
    /// A follower has synced.
    DurableAck {
        /// The follower.
        broker: BrokerId,
        /// What it says.
        report: DurableReport,
    },
    /// The controller has answered the last proposal. Only metadata says what came of it.
    AlterAnswered {
        /// Whether it was not refused.
        accepted: bool,
    },
    /// The leader has answered a fetch.
    FetchAnswered(FetchAnswer),
    /// Time has passed; come at least every quarter of `replica.lag.time.max.ms`.
    Tick,
    /// This process had stood still: how long others were silent says nothing about them.
    Paused,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the start of an epoch durable, then tell ([`Event::EpochStartDurable`]).
    StartEpoch {
        /// The epoch.
        epoch: LeaderEpoch,
        /// Where it begins.
        start_offset: Offset,
    },
    /// Requests may be served in this epoch from now on: try those that were told to wait.
    Serve {
        /// The epoch.
        epoch: LeaderEpoch,
    },
    /// This replica no longer leads: end whatever waits for the high watermark of the epoch.
    StopLeading {
        /// The epoch.
        epoch: LeaderEpoch,
    },
    /// The high watermark has moved: complete what waited for it, followers' fetches too.
    HighWatermark {
        /// To where.
        offset: Offset,
    },
    /// Ask the controller for another ISR.
    AlterPartition(Proposal),
    /// Ask the controller for another leader: this one's disk does not keep up.
    Resign {
        /// The epoch to give up.
        epoch: LeaderEpoch,
    },
    /// Fetch from this leader, as [`crate::Replica::next_fetch`] says.
    Follow {
        /// The leader.
        leader: BrokerId,
        /// Its epoch.
        epoch: LeaderEpoch,
    },
    /// Append the records of the answer, and tell.
    Append,
    /// Cut the log at its end, durably, then tell. No record may go where `to` is the end
    /// already: then an epoch goes that began there.
    Truncate {
        /// Its new end.
        to: Offset,
    },
    /// Empty the log and let it begin elsewhere, durably, then tell.
    Reset {
        /// Where.
        to: Offset,
    },
    /// Raise the log start. It counts as raised already.
    RaiseLogStart {
        /// To where.
        to: Offset,
    },
    /// Tell the leader at once what is durable.
    SendDurableAck {
        /// The leader.
        leader: BrokerId,
        /// What to tell.
        report: DurableReport,
    },
    /// Serve nothing and fetch nothing until metadata or a person changes something.
    GoOffline(OfflineReason),
    /// Wait: the partition has no leader, or this broker no part in it.
    StandBy,
}

/// What a follower has on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurableReport {
    /// Offset after the last durable record.
    pub durable_end: Offset,
    /// The leader epoch that it follows.
    pub leader_epoch: LeaderEpoch,
    /// Its broker epoch.
    pub broker_epoch: BrokerEpoch,
    /// The generation of its log.
    pub generation: i64,
}

/// An ISR for the controller to make (KIP-497, KIP-903).
///
/// One that equals the ISR there is asks for a new partition epoch, which voids what was
/// proposed for the old one: the controller must not take it for no change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The leader epoch of who proposes.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that it was decided on.
    pub partition_epoch: PartitionEpoch,
    /// The members, with their broker epochs.
    pub isr: Vec<(BrokerId, BrokerEpoch)>,
}

/// A fetch from a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerFetch {
    /// The follower.
    pub broker: BrokerId,
    /// Offset after its last record.
    pub fetch_offset: Offset,
    /// The newest epoch of its log, `None` if it has none.
    pub last_fetched_epoch: Option<LeaderEpoch>,
    /// Its log start.
    pub log_start: Offset,
    /// What it has on its disk; names leader epoch, broker epoch and log generation, too.
    pub durable: DurableReport,
}

/// What a follower asks its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPlan {
    /// The leader.
    pub leader: BrokerId,
    /// The fetch.
    pub fetch: FollowerFetch,
    /// The high watermark that the follower knows: the leader answers at once if its own
    /// is another.
    pub high_watermark: Offset,
}

/// Where two histories part (KIP-320).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diverging {
    /// The newest epoch of the leader's log that is not above the follower's.
    pub epoch: LeaderEpoch,
    /// Where it ends there.
    pub end_offset: Offset,
}

/// The leader's decision on a fetch from a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchDecision {
    /// Send records from the fetch offset to the log's end; wait for some if there are none.
    Records {
        /// The high watermark to tell.
        high_watermark: Offset,
        /// The log start to tell.
        log_start: Offset,
    },
    /// Tell where the histories part.
    Diverging(Diverging),
    /// The fetch offset lies outside of the log: `OFFSET_OUT_OF_RANGE`.
    OutOfRange {
        /// The log start.
        log_start: Offset,
        /// The log's end.
        end: Offset,
    },
    /// Try again when this leader serves ([`Action::Serve`]).
    Wait,
    /// This replica does not lead: `NOT_LEADER_OR_FOLLOWER`.
    NotLeader,
    /// The follower follows an older epoch: `FENCED_LEADER_EPOCH`.
    FencedEpoch,
    /// The follower knows of a newer epoch: `UNKNOWN_LEADER_EPOCH`.
    UnknownEpoch,
    /// The follower is no replica, as far as is known here: `UNKNOWN_LEADER_EPOCH`.
    NotReplica,
    /// A later process of that broker has registered: `STALE_BROKER_EPOCH`.
    StaleBroker,
    /// Sent before the follower cut its log: an answer is of no use.
    StaleGeneration,
    /// The numbers contradict each other: `INVALID_REQUEST`.
    Invalid,
}

/// The leader's answer, together with what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchAnswer {
    /// The leader epoch that was asked.
    pub leader_epoch: LeaderEpoch,
    /// The offset that was asked for.
    pub fetch_offset: Offset,
    /// The generation of the log that asked.
    pub generation: i64,
    /// The answer.
    pub outcome: FetchOutcome,
}

/// What a leader says to a fetch. Other errors are the shell's to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchOutcome {
    /// Records, or none.
    Records {
        /// The leader's high watermark.
        high_watermark: Offset,
        /// The leader's log start.
        log_start: Offset,
    },
    /// The histories part.
    Diverging(Diverging),
    /// The offset lies outside of the leader's log.
    OutOfRange {
        /// The leader's log start.
        log_start: Offset,
        /// The leader's end.
        end: Offset,
    },
}

/// Why a replica is offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum OfflineReason {
    #[error("the disk of its log failed: replace the disk and start the broker again")]
    LogFailed,
    #[error(
        "leader epoch {leader_epoch} asks for a cut at offset {to}, below the high watermark {high_watermark}: \
         records that were acknowledged would go; elect another leader, or elect this one uncleanly to give them up"
    )]
    WouldLoseCommitted {
        leader_epoch: LeaderEpoch,
        to: Offset,
        high_watermark: Offset,
    },
    #[error(
        "it is to lead in epoch {granted}, but its log has records or a start of epoch {known}: \
         one epoch would get two histories; elect a leader again"
    )]
    EpochNotNew {
        granted: LeaderEpoch,
        known: LeaderEpoch,
    },
}
