//! Every metric of the broker: what is registered or written at a scrape is named here first,
//! and `docs/metrics.md` is generated from this table (see `reference`).

/// How a metric's values are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows, until the process restarts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by bucket, with a sum and a count.
    Histogram,
}

impl Kind {
    /// The name in the exposition format.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A metric with all its series.
#[derive(Debug)]
#[cfg_attr(
    not(test),
    allow(dead_code, reason = "the unit and the page are for the reference")
)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [&'static str],
    pub(crate) unit: &'static str,
    pub(crate) help: &'static str,
    /// Only on `/metrics/partitions`.
    pub(crate) of_partitions: bool,
}

macro_rules! families {
    (broker { $($name:ident: $kind:ident $text:literal [$($label:literal),*] $unit:literal, $help:literal;)* }
     partitions { $($of_name:ident: $of_kind:ident $of_text:literal $of_unit:literal, $of_help:literal;)* }) => {
        $(pub(crate) const $name: Family = Family {
            name: $text, kind: Kind::$kind, labels: &[$($label),*], unit: $unit, help: $help,
            of_partitions: false,
        };)*
        $(pub(crate) const $of_name: Family = Family {
            name: $of_text, kind: Kind::$of_kind, labels: &["topic", "partition"], unit: $of_unit,
            help: $of_help, of_partitions: true,
        };)*
        /// All of them, in the order of the reference.
        #[cfg(test)]
        pub(crate) const ALL: &[&Family] = &[$(&$name,)* $(&$of_name,)*];
    };
}

families! {
    broker {
    BUILD_INFO: Gauge "tidemark_build_info" ["version"] "1", "Always 1; the label says which version runs.";
    CLOCK: Gauge "tidemark_clock_timestamp_seconds" [] "seconds", "What this broker's clock says, in seconds since 1970: as much as two brokers differ, their clocks do.";
    UPTIME: Gauge "tidemark_uptime_seconds" [] "seconds", "Time since the process started.";
    READY: Gauge "tidemark_ready" [] "0 or 1", "Whether /readyz answers 200.";
    RECOVERY_LEFT: Gauge "tidemark_recovery_remaining_partitions" [] "partitions", "Partitions whose logs are still to be recovered after the start.";

    CONNECTIONS: Gauge "tidemark_connections" [] "connections", "Client connections that are open.";
    CONNECTIONS_REFUSED: Counter "tidemark_connections_refused_total" [] "connections", "Connections closed at accept because max.connections or max.connections.per.ip was reached.";
    HANDSHAKES_FAILED: Counter "tidemark_tls_handshakes_failed_total" [] "connections", "Connections closed because no TLS came about on them; the log says why.";
    CERTIFICATE_EXPIRY: Gauge "tidemark_certificate_expiry_timestamp_seconds" ["listener"] "seconds", "When the certificate that a listener shows ends, in seconds since 1970.";
    BAD_REQUESTS: Counter "tidemark_bad_requests_total" [] "connections", "Connections closed because what came was not a request that this broker can serve.";
    REQUEST_DURATION: Histogram "tidemark_request_duration_seconds" ["api"] "seconds", "Time from a decoded frame to its answer; long polls and waits for other members included.";
    REQUEST_ERRORS: Counter "tidemark_request_errors_total" ["api", "error"] "errors", "Errors answered, by Kafka's name of the error; a request over many partitions may count many.";
    PRODUCE_ACK_DURATION: Histogram "tidemark_produce_ack_duration_seconds" ["acks"] "seconds", "Time from an append to its acknowledgement (acks 1 or all).";
    FETCH_SESSIONS: Gauge "tidemark_fetch_sessions" [] "sessions", "Incremental fetch sessions that are held (KIP-227).";

    RECEIVED_BYTES: Counter "tidemark_received_bytes_total" [] "bytes", "Bytes of record batches appended, over all topics that there were at any scrape.";
    RECEIVED_RECORDS: Counter "tidemark_received_records_total" [] "records", "Records appended, over all topics that there were at any scrape.";
    SENT_BYTES: Counter "tidemark_sent_bytes_total" [] "bytes", "Bytes of record batches fetched, over all topics that there were at any scrape.";
    TOPICS: Gauge "tidemark_topics" [] "topics", "Topics with a partition on this broker, internal ones included.";
    PARTITIONS: Gauge "tidemark_partitions" [] "partitions", "Partitions on this broker.";
    PARTITIONS_OFFLINE: Gauge "tidemark_partitions_offline" [] "partitions", "Partitions that can be neither read nor written, because their log or its disk failed.";
    TOPIC_RECEIVED_BYTES: Counter "tidemark_topic_received_bytes_total" ["topic"] "bytes", "Bytes of record batches appended.";
    TOPIC_RECEIVED_RECORDS: Counter "tidemark_topic_received_records_total" ["topic"] "records", "Records appended.";
    TOPIC_SENT_BYTES: Counter "tidemark_topic_sent_bytes_total" ["topic"] "bytes", "Bytes of record batches fetched.";
    TOPIC_SIZE: Gauge "tidemark_topic_size_bytes" ["topic"] "bytes", "Size of the topic's segments on this broker.";
    TOPIC_PARTITIONS: Gauge "tidemark_topic_partitions" ["topic"] "partitions", "Partitions of the topic on this broker.";

    LEADERS: Gauge "tidemark_leader_partitions" [] "partitions", "Partitions that this broker leads.";
    UNDER_REPLICATED: Gauge "tidemark_under_replicated_partitions" [] "partitions", "Partitions led here with fewer replicas in sync than they have.";
    UNDER_MIN_ISR: Gauge "tidemark_under_min_isr_partitions" [] "partitions", "Partitions led here with fewer replicas in sync than min.insync.replicas: acks=all is refused.";
    AT_MIN_ISR: Gauge "tidemark_at_min_isr_partitions" [] "partitions", "Partitions led here with just min.insync.replicas in sync, and more replicas: one more failure and acks=all is refused.";
    FOLLOWER_LAG_MAX: Gauge "tidemark_follower_lag_max_records" [] "records", "The most that a follower of a partition led here lacks on its disk of what the leader has.";
    ISR_SHRINKS: Counter "tidemark_isr_shrinks_total" [] "changes", "Times that a partition led here had fewer replicas in sync than before.";
    ISR_EXPANDS: Counter "tidemark_isr_expands_total" [] "changes", "Times that a partition led here had more replicas in sync than before.";
    THROTTLED_BYTES: Counter "tidemark_throttled_replication_bytes_total" ["side"] "bytes", "Bytes of throttled replicas that are not in sync: side leader is what this broker gave (Kafka's LeaderReplication byte-rate is its rate), follower what it took (FollowerReplication).";
    FAILED_FETCHES: Counter "tidemark_failed_follower_fetches_total" [] "fetches", "Fetches of followers on this broker that failed, as a whole or for a partition.";

    UNCLEAN_ELECTIONS: Counter "tidemark_unclean_elections_total" [] "elections", "Times that this broker was made leader though it may lack records that were acknowledged.";
    TRUNCATED_RECORDS: Counter "tidemark_truncated_records_total" [] "records", "Records that this broker cut off as a follower, because its leader has others or none there.";

    ACTIVE_CONTROLLER: Gauge "tidemark_active_controller" [] "0 or 1", "Whether this node is the active controller: one node of the cluster is.";
    CONTROLLER_CONTACT: Gauge "tidemark_controller_contact_age_seconds" [] "seconds", "Time since this broker last heard of an active controller; from its start, before the first time.";
    FENCED: Gauge "tidemark_fenced" [] "0 or 1", "Whether the controller does not count on this broker, as far as this broker knows.";
    FENCED_BROKERS: Gauge "tidemark_fenced_brokers" [] "brokers", "Registered brokers of the cluster that the controller does not count on: down, or cut off.";
    LEADERLESS: Gauge "tidemark_leaderless_partitions" [] "partitions", "Partitions of the cluster without a leader, wherever they are placed.";

    GROUPS: Gauge "tidemark_groups" ["state"] "groups", "Consumer groups that this broker coordinates.";
    GROUP_LAG: Gauge "tidemark_group_lag_records" ["group"] "records", "Records up to the high watermark that the group has not committed, over all partitions that it has offsets of and this broker replicas of.";
    GROUP_LAG_SECONDS: Gauge "tidemark_group_lag_seconds" ["group"] "seconds", "Age of the oldest batch that the group has not committed, by the batch's timestamp; 0 without lag.";
    GROUP_UNKNOWN: Gauge "tidemark_group_lag_unknown_partitions" ["group"] "partitions", "Partitions that the group has offsets of and this broker no replica: their lag is in no figure.";
    GROUP_COMMITTED: Gauge "tidemark_group_committed_offset_sum" ["group"] "offset", "Sum of the group's committed offsets: while it stands still, nothing is done.";
    GROUP_MEMBERS: Gauge "tidemark_group_members" ["group"] "members", "Members of the group.";
    GROUP_STATE: Gauge "tidemark_group_state" ["group", "state"] "1", "Always 1; the label is the group's state, as Kafka names it.";
    GROUP_REBALANCES: Counter "tidemark_group_rebalances_total" ["group"] "rebalances", "Rebalances that the group has completed since it was made: its generation, which goes on when another broker coordinates it.";

    WAL_FSYNC_DURATION: Histogram "tidemark_wal_fsync_duration_seconds" [] "seconds", "Time that one durable write of a group to a write-ahead log took; the count is the number of groups.";
    WAL_WRITTEN_BYTES: Counter "tidemark_wal_written_bytes_total" [] "bytes", "Bytes written to write-ahead logs, heads and padding included.";
    WAL_RECORDS: Counter "tidemark_wal_records_total" [] "records", "Batches and marks written to write-ahead logs: with the count of groups, how many shared a write.";
    WAL_QUEUED: Gauge "tidemark_wal_queued_bytes" ["directory"] "bytes", "Bytes that wait to be written to the write-ahead log.";
    WAL_HELD: Gauge "tidemark_wal_held_bytes" ["directory"] "bytes", "Bytes of the write-ahead log that no checkpoint has let go of: what a start after a crash has to read.";
    DISK_READ_ONLY: Gauge "tidemark_disk_read_only" ["directory"] "0 or 1", "1 while the directory takes no records because its disk is full.";
    AWAITING_BACKUP: Gauge "tidemark_partitions_awaiting_backup" [] "partitions", "Partitions placed here that came back from a bucket and are not served yet, as their last backup is not here.";
    TIER_LAG: Gauge "tidemark_tier_lag_seconds" [] "seconds", "How long the oldest records of a tiered partition led here have waited to be in the bucket.";
    TIER_SNAPSHOT_LATE: Gauge "tidemark_tier_snapshot_stale_seconds" [] "seconds", "On the active controller, how long the bucket has failed to take the newest metadata: what a restore would not know; 0 while it takes them.";
    TIER_UPLOADED: Counter "tidemark_tier_uploaded_bytes_total" [] "bytes", "Bytes of objects with records that were uploaded and read back.";
    TIER_READ: Counter "tidemark_tier_read_bytes_total" [] "bytes", "Bytes of record batches given to consumers from the bucket.";
    TIER_FAILURES: Counter "tidemark_tier_failures_total" ["outcome"] "attempts", "Uploads and reads that failed, by what the bucket did; each is tried again.";
    TIER_HELD_BACK: Gauge "tidemark_tier_held_back_bytes" ["directory"] "bytes", "Bytes of records led here that local retention would have deleted, if the bucket had them.";
    TIER_RESERVE: Gauge "tidemark_tier_reserve_bytes" ["directory"] "bytes", "How many bytes may be held back for the bucket; near it producers to tiered topics are slowed, at it refused.";
    TIER_SLOWED: Counter "tidemark_tier_slowed_requests_total" [] "requests", "Produce requests whose answers were held back as the bucket took too little.";
    TIER_REFUSED: Counter "tidemark_tier_refused_batches_total" [] "batches", "Batches that were refused as records waited for the bucket and the reserve for them was used up.";
    DISK_FULL: Counter "tidemark_disk_full_refusals_total" [] "appends", "Appends refused because the disk was full.";
    DISK_USED: Gauge "tidemark_disk_used_bytes" ["directory"] "bytes", "Bytes that this broker's data takes in the directory.";
    DISK_CAPACITY: Gauge "tidemark_disk_capacity_bytes" ["directory"] "bytes", "Size of the directory's file system.";
    DISK_FREE: Gauge "tidemark_disk_free_bytes" ["directory"] "bytes", "Bytes of the directory's file system that can still be written.";
    DISK_ONLINE: Gauge "tidemark_disk_online" ["directory"] "0 or 1", "0 when the directory failed and its partitions are offline.";

    DIRECTORY_FAILED: Gauge "tidemark_data_directory_failed" [] "0 or 1", "1 while this process serves nothing because a data directory is marked as failed; /readyz says which.";

    MEMORY_USED: Gauge "tidemark_memory_used_bytes" ["budget"] "bytes", "Bytes taken from a memory budget.";
    MEMORY_LIMIT: Gauge "tidemark_memory_limit_bytes" ["budget"] "bytes", "Size of a memory budget; what does not fit waits.";
    RESIDENT_MEMORY: Gauge "tidemark_resident_memory_bytes" [] "bytes", "Resident memory of the process.";
    CPU: Counter "tidemark_cpu_seconds_total" [] "seconds", "Processor time of the process, user and system.";
    THREADS: Gauge "tidemark_threads" [] "threads", "Threads of the process.";
    OPEN_FILES: Gauge "tidemark_open_files" [] "files", "File descriptors in use, connections included.";
    OPEN_FILES_LIMIT: Gauge "tidemark_open_files_limit" [] "files", "File descriptors that the process may have (its soft limit).";

    SLOW_POLLS: Counter "tidemark_slow_polls_total" ["thread"] "polls", "Times that a net thread was busy or waited for a processor for more than 10 ms before it came to a due timer.";
    POLL_DELAY_MAX: Gauge "tidemark_poll_delay_max_seconds" ["thread"] "seconds", "Longest such delay on a net thread within the last one to two minutes.";
    TICK_AGE: Gauge "tidemark_net_thread_tick_age_seconds" ["thread"] "seconds", "Time since a net thread last came to its timer; above 10 s /livez fails.";

    }

    partitions {
    PARTITION_LOG_START: Gauge "tidemark_partition_log_start_offset" "offset", "First offset that can be read.";
    PARTITION_HIGH_WATERMARK: Gauge "tidemark_partition_high_watermark" "offset", "Offset up to which consumers read.";
    PARTITION_END: Gauge "tidemark_partition_end_offset" "offset", "Offset that the next record gets.";
    PARTITION_DURABLE: Gauge "tidemark_partition_durable_offset" "offset", "Offset up to which the log is on disk for good.";
    PARTITION_SIZE: Gauge "tidemark_partition_size_bytes" "bytes", "Size of the partition's segments.";
    PARTITION_SEGMENTS: Gauge "tidemark_partition_segments" "segments", "Segments of the partition.";
    PARTITION_FOLLOWER_LAG: Gauge "tidemark_partition_follower_lag_records" "records", "What the slowest follower lacks on its disk of what the leader has; 0 where this broker does not lead.";
    PARTITION_ONLINE: Gauge "tidemark_partition_online" "0 or 1", "0 when the partition's log or its disk failed.";
    PARTITION_RECEIVED_BYTES: Counter "tidemark_partition_received_bytes_total" "bytes", "Bytes of record batches appended.";
    PARTITION_RECEIVED_RECORDS: Counter "tidemark_partition_received_records_total" "records", "Records appended.";
    PARTITION_SENT_BYTES: Counter "tidemark_partition_sent_bytes_total" "bytes", "Bytes of record batches fetched.";
    }
}
