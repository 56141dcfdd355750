//! The table of broker, topic and group settings: parse, validate, describe; pure.
