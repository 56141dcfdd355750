//! What the answer to a batch means for it. Pure.

use tidemark_wire::ErrorCode;

/// What to do with a batch whose answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Written, its first record at this offset (-1 if unknown).
    Written(i64),
    /// Try again; `refresh` when the leader has moved.
    Retry {
        /// Ask for metadata first.
        refresh: bool,
    },
    /// Too large as it is: two smaller batches may pass.
    Split,
    /// Refused for sure.
    Refused,
    /// Refused because of its sequence: a new producer id is needed.
    SequenceLost,
}

/// The verdict on a batch of `record_count` records.
pub(crate) fn judge(code: ErrorCode, base_offset: i64, record_count: usize) -> Verdict {
    match code {
        ErrorCode::None => Verdict::Written(base_offset),
        // Known as a repetition: it was written when its first answer got lost.
        ErrorCode::DuplicateSequenceNumber => Verdict::Written(-1),
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge if record_count > 1 => {
            Verdict::Split
        }
        ErrorCode::OutOfOrderSequenceNumber
        | ErrorCode::UnknownProducerId
        | ErrorCode::InvalidProducerEpoch
        | ErrorCode::InvalidProducerIdMapping => Verdict::SequenceLost,
        ErrorCode::NotLeaderOrFollower
        | ErrorCode::LeaderNotAvailable
        | ErrorCode::UnknownTopicOrPartition
        | ErrorCode::UnknownTopicId
        | ErrorCode::FencedLeaderEpoch
        | ErrorCode::UnknownLeaderEpoch
        | ErrorCode::KafkaStorageError
        | ErrorCode::ReplicaNotAvailable => Verdict::Retry { refresh: true },
        // The batch was damaged on its way.
        ErrorCode::CorruptMessage => Verdict::Retry { refresh: false },
        other if other.is_retriable() => Verdict::Retry { refresh: false },
        _ => Verdict::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_answer() {
        for (code, count, verdict) in [
            (ErrorCode::None, 1, Verdict::Written(42)),
            (ErrorCode::DuplicateSequenceNumber, 1, Verdict::Written(-1)),
            (ErrorCode::MessageTooLarge, 2, Verdict::Split),
            (ErrorCode::MessageTooLarge, 1, Verdict::Refused),
            (
                ErrorCode::NotLeaderOrFollower,
                1,
                Verdict::Retry { refresh: true },
            ),
            (
                ErrorCode::NotEnoughReplicas,
                1,
                Verdict::Retry { refresh: false },
            ),
            (
                ErrorCode::OutOfOrderSequenceNumber,
                1,
                Verdict::SequenceLost,
            ),
            (ErrorCode::InvalidRecord, 9, Verdict::Refused),
            (ErrorCode::TopicAuthorizationFailed, 9, Verdict::Refused),
        ] {
            assert_eq!(judge(code, 42, count), verdict, "{code}");
        }
    }
}
