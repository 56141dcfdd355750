//! A topic's settings in the shapes that its logs and its produce path use.

use std::sync::Arc;
use tidemark_config::{CompressionType, TimestampType as Stamped, TopicSettings};
use tidemark_log::LogConfig;
use tidemark_records::{Compression, ProducePolicy, TimestampType, TopicCompression};

/// What a partition accepts and how it keeps it.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) produce: ProducePolicy,
    pub(crate) log: Arc<LogConfig>,
    pub(crate) settings: TopicSettings,
    /// Whether the whole of each partition is backed up in the bucket: a tiered topic that is
    /// compacted. It counts as not tiered otherwise, all of it being local.
    pub(crate) backed_up: bool,
}

impl Policy {
    pub(crate) fn new(mut settings: TopicSettings, producer_id_expiration_ms: i32) -> Policy {
        let backed_up = settings.remote_storage_enable && settings.cleanup_compact;
        settings.remote_storage_enable &= !backed_up;
        let codec = |codec, level: Option<i32>| TopicCompression::Codec { codec, level };
        let compression = match settings.compression_type {
            CompressionType::Producer => TopicCompression::Producer,
            CompressionType::Uncompressed => codec(Compression::None, None),
            CompressionType::Gzip => {
                let level = settings.compression_gzip_level;
                codec(Compression::Gzip, (level > 0).then_some(level))
            }
            CompressionType::Snappy => codec(Compression::Snappy, None),
            CompressionType::Lz4 => codec(Compression::Lz4, None),
            CompressionType::Zstd => {
                codec(Compression::Zstd, Some(settings.compression_zstd_level))
            }
        };
        let unsigned = |value: i32| u32::try_from(value).unwrap_or(0);
        let produce = ProducePolicy {
            max_message_bytes: usize::try_from(settings.max_message_bytes).unwrap_or(0),
            timestamp_type: match settings.timestamp_type {
                Stamped::CreateTime => TimestampType::CreateTime,
                Stamped::LogAppendTime => TimestampType::LogAppendTime,
            },
            timestamp_before_max_ms: settings.timestamp_before_max_ms,
            timestamp_after_max_ms: settings.timestamp_after_max_ms,
            compression,
            compacted: settings.cleanup_compact,
            ..ProducePolicy::default()
        };
        // A tiered topic's log keeps what is to be local; -2 stands for all that is kept.
        let local = |of_tiered: i64, whole: Option<i64>| match of_tiered {
            -2 => whole.unwrap_or(-1),
            of_tiered if settings.remote_storage_enable => of_tiered,
            _ => whole.unwrap_or(-1),
        };
        let log = LogConfig {
            segment_bytes: unsigned(settings.segment_bytes),
            segment_ms: settings.segment_ms,
            segment_jitter_ms: settings.segment_jitter_ms,
            segment_index_bytes: unsigned(settings.segment_index_bytes),
            index_interval_bytes: unsigned(settings.index_interval_bytes),
            retention_ms: local(settings.local_retention_ms, settings.retention_ms),
            retention_bytes: local(settings.local_retention_bytes, settings.retention_bytes),
            // A compacted topic keeps everything until there is a cleaner.
            delete_retention: settings.cleanup_delete,
            max_message_bytes: unsigned(settings.max_message_bytes),
            file_delete_delay_ms: settings.file_delete_delay_ms,
            producer_id_expiration_ms: i64::from(producer_id_expiration_ms),
        };
        Policy {
            produce,
            log: Arc::new(log),
            settings,
            backed_up,
        }
    }
}
