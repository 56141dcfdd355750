//! Listeners, one handler per API, the partition runtime, metrics and health.
