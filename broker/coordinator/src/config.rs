//! The group settings that the state machine needs, under Kafka's meanings.

/// Limits and delays of a coordinator; the defaults are Kafka's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`: shorter sessions get `INVALID_SESSION_TIMEOUT`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`: longer sessions get `INVALID_SESSION_TIMEOUT`.
    pub max_session_timeout_ms: i32,
    /// `group.max.size`: members beyond it get `GROUP_MAX_SIZE_REACHED`.
    pub max_size: usize,
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members.
    pub initial_rebalance_delay_ms: i32,
    /// `offset.metadata.max.bytes`: longer commit metadata gets `OFFSET_METADATA_TOO_LARGE`.
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds (KIP-211).
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`: how often expired offsets are looked for.
    pub offsets_retention_check_interval_ms: i64,
    /// A JoinGroup of a member that never had an answer is given up after this
    /// time, so that clients that came and went do not fill a long rebalance.
    pub new_member_join_timeout_ms: i32,
    /// The largest group metadata record that the offsets topic takes, in bytes.
    /// A bigger assignment is refused before it is appended.
    pub max_group_record_bytes: usize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            max_size: i32::MAX as usize,
            initial_rebalance_delay_ms: 3_000,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 10_080 * 60_000,
            offsets_retention_check_interval_ms: 600_000,
            new_member_join_timeout_ms: 300_000,
            // max.message.bytes of the offsets topic, less a batch header and record framing.
            max_group_record_bytes: 1_048_588 - 256,
        }
    }
}
