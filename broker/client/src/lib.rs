//! A small async Kafka client for the command line, the operator and the tests.
