//! Which partition of `__consumer_offsets` a group belongs to.

/// The partition of a group, as Kafka computes it: Java's `String.hashCode`
/// over UTF-16 units, made non-negative, modulo the number of partitions.
/// `partitions` below 1 counts as 1.
pub fn partition_for(group_id: &str, partitions: i32) -> i32 {
    let hash = group_id.encode_utf16().fold(0i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    // Kafka's `Utils.abs`: the one value without a positive counterpart is 0.
    let positive = hash.checked_abs().unwrap_or(0);
    positive % partitions.max(1)
}
