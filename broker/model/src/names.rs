//! What a topic may be called.

/// Topic of the group coordinators' records.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// Topic of the transaction coordinators' records.
pub const TRANSACTION_STATE: &str = "__transaction_state";
/// Topic of the share coordinators' records.
pub const SHARE_GROUP_STATE: &str = "__share_group_state";

/// Longest name: with a partition number it still makes a directory name.
const LONGEST_NAME: usize = 249;

/// Whether the cluster itself owns a topic, so that clients may not produce to it or delete it lightly.
pub fn is_internal_topic(name: &str) -> bool {
    [CONSUMER_OFFSETS, TRANSACTION_STATE, SHARE_GROUP_STATE].contains(&name)
}

/// Why a name is no topic name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopicName {
    /// No characters.
    #[error("Topic name is invalid: the empty string is not allowed")]
    Empty,
    /// It would be a directory of its own meaning.
    #[error("Topic name is invalid: '.' or '..' is not allowed")]
    Dots,
    /// Too long.
    #[error("Topic name is invalid: {0} characters, and at most 249 are allowed")]
    TooLong(usize),
    /// A character outside the set.
    #[error(
        "Topic name is invalid: '{0}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    )]
    Characters(String),
}

/// Checks a name by Kafka's rules.
pub fn check_topic_name(name: &str) -> Result<(), InvalidTopicName> {
    if name.is_empty() {
        return Err(InvalidTopicName::Empty);
    }
    if name == "." || name == ".." {
        return Err(InvalidTopicName::Dots);
    }
    if name.len() > LONGEST_NAME {
        return Err(InvalidTopicName::TooLong(name.chars().count()));
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.bytes().all(legal) {
        Ok(())
    } else {
        Err(InvalidTopicName::Characters(name.to_owned()))
    }
}

/// Names with the same key collide: `.` and `_` are one character in metrics' names.
pub fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}
