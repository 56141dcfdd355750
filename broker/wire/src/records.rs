//! Records of a response, which need not be in memory.

use bytes::Bytes;

/// The records of a response. Whoever decodes gets [`Records::Here`] always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Records {
    /// The bytes themselves.
    Here(Bytes),
    /// So many bytes, which the sender has elsewhere: it puts them where the writer's segments
    /// say ([`crate::Segment::Elsewhere`]).
    Elsewhere(usize),
}

impl Default for Records {
    fn default() -> Records {
        Records::Here(Bytes::new())
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Records {
        Records::Here(bytes)
    }
}

impl Records {
    /// Their length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Records::Here(bytes) => bytes.len(),
            Records::Elsewhere(len) => *len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, if they are here.
    pub fn into_bytes(self) -> Option<Bytes> {
        match self {
            Records::Here(bytes) => Some(bytes),
            Records::Elsewhere(_) => None,
        }
    }
}
