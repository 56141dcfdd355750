//! The settings of one partition's log, named after Kafka's topic settings.

/// Settings of a log. Sizes are in bytes, times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment is rolled before it would grow past this.
    pub segment_bytes: u32,
    /// `segment.ms`: a segment is rolled when its first record is older.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: each segment rolls earlier by a share of this.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`: a segment is rolled when its index is as long.
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`: about one index entry for so many bytes.
    pub index_interval_bytes: u32,
    /// `retention.ms`: segments with only older records go; -1 keeps them.
    pub retention_ms: i64,
    /// `retention.bytes`: oldest segments go while the log is larger; -1 keeps them.
    pub retention_bytes: i64,
    /// Whether `cleanup.policy` has `delete` in it; retention does nothing otherwise.
    pub delete_retention: bool,
    /// `max.message.bytes`: larger batches are refused.
    pub max_message_bytes: u32,
    /// `file.delete.delay.ms`: files of deleted segments stay so long.
    pub file_delete_delay_ms: i64,
    /// `producer.id.expiration.ms`: an idle producer is forgotten after this.
    pub producer_id_expiration_ms: i64,
}

impl Default for LogConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * DAY_MS,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: 7 * DAY_MS,
            retention_bytes: -1,
            delete_retention: true,
            max_message_bytes: (1 << 20) + 12,
            file_delete_delay_ms: 60_000,
            producer_id_expiration_ms: DAY_MS,
        }
    }
}
