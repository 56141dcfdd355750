//! Tests of the metadata log, of decisions and of the controller.
