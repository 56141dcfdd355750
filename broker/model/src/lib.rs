//! Ids, and the metadata records that fold into an immutable image; pure.
