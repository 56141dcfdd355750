//! What the code under test says in its log, counted: the states that a history has reached.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

static TOLD: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// Counts the messages of our own events in this process, without their fields.
#[derive(Debug)]
pub struct Counting;

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !event.metadata().target().starts_with("tidemark") {
            return;
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = event.metadata().level().as_str().to_lowercase();
        let text = format!("{level}: {}", message.0);
        *lock().entry(text).or_default() += 1;
    }
}

/// What was said since the last call, and how often.
pub fn take() -> BTreeMap<String, u64> {
    std::mem::take(&mut *lock())
}

fn lock() -> std::sync::MutexGuard<'static, BTreeMap<String, u64>> {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" && write!(self.0, "{value:?}").is_err() {
            // A String takes everything.
        }
    }
}
