//! Reading for consumers: sessions, ready lists, and what one partition has to say.

mod read;
mod session;
mod signal;
#[cfg(test)]
mod tests;

pub(crate) use read::{Found, Reader, Subscription, look};
pub(crate) use session::{Entry, Interest, Opened, Sessions, TopicRef, Wanted};
pub(crate) use signal::{Signal, Slot};
