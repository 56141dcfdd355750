//! Consumer groups and their offsets: pure state machines over a log.
