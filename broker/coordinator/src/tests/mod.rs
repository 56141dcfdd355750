//! Scenarios and properties of the coordinator, driven as its shell drives it.

mod describe;
mod durability;
mod expiry;
mod hostile;
mod join;
mod leave;
mod offsets;
mod properties;
mod records;
mod shell;
mod static_members;
mod sync;
mod timers;
