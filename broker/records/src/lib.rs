//! Record batches: views, validation, builders and compression; no I/O.
