//! Bytes to Kafka messages and back, at every version; no I/O.
