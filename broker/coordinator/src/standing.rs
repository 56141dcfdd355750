//! How a group stands, for who watches it.

use crate::offsets::Offsets;

/// One group at one moment.
#[derive(Debug, Clone, Copy)]
pub struct GroupStanding<'a> {
    /// Its name.
    pub id: &'a str,
    /// Its state, as Kafka writes it.
    pub state: &'static str,
    /// How many members it has.
    pub members: usize,
    /// Grows by one with every rebalance that completes.
    pub generation_id: i32,
    pub(crate) offsets: &'a Offsets,
}

impl<'a> GroupStanding<'a> {
    /// The committed offsets: topic, partition, offset.
    pub fn offsets(&self) -> impl Iterator<Item = (&'a str, i32, i64)> + use<'a> {
        let offsets = self.offsets.iter();
        offsets.map(|(topic, partition, value)| (topic, partition, value.offset))
    }
}
