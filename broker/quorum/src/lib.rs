//! The metadata log and the controller's decisions.
