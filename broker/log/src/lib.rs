//! One partition's log in Kafka's file format, on a Disk.
