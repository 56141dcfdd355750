//! Checks of the repository itself: layering, generated files.
