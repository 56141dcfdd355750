//! What a handler knows of a request besides its body.

use crate::net::{FrameError, Permit};
use bytes::Bytes;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_log::Piece;
use tidemark_wire::messages::RequestHeader;
use tidemark_wire::{ApiKey, Reader, request_header_version};

/// Stands for the peer of a request that is refused before its header is read.
pub(crate) const UNKNOWN_PEER: SocketAddr =
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// A request's header, and where it came from.
#[derive(Debug)]
pub(crate) struct Context {
    /// The API asked for.
    pub(crate) api: ApiKey,
    /// The version of request and answer.
    pub(crate) version: i16,
    /// Echoed in the answer.
    pub(crate) correlation_id: i32,
    /// The client's name for itself; empty when it gave none.
    pub(crate) client_id: String,
    /// The other end of the connection.
    pub(crate) peer: SocketAddr,
    /// The name of the listener that it came in on.
    pub(crate) listener: Arc<str>,
    /// Memory that the answer holds until it is sent.
    pub(crate) held: Mutex<Vec<Permit>>,
    /// Records that the answer announces, in the order of their places in it.
    pub(crate) announced: Mutex<Vec<Piece>>,
}

impl Context {
    /// Whether a broker asks on its own behalf: no listener of clients has an empty name.
    pub(crate) fn is_of_broker(&self) -> bool {
        self.listener.is_empty()
    }

    /// Keeps memory for the answer until it is sent.
    pub(crate) fn hold(&self, permit: Permit) {
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(permit);
    }

    /// Hands over what the answer holds.
    pub(crate) fn take_held(&self) -> Vec<Permit> {
        std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps records that the answer announces; in the order of their places in it.
    pub(crate) fn announce(&self, pieces: impl IntoIterator<Item = Piece>) {
        self.announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(pieces);
    }

    /// Hands over what the answer announces.
    pub(crate) fn take_announced(&self) -> Vec<Piece> {
        let mut announced = self
            .announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *announced)
    }

    /// Reads only the correlation id: enough to answer a request whose version is unknown.
    pub(crate) fn bare(api: ApiKey, version: i16, frame: &Bytes) -> Result<Context, FrameError> {
        let mut reader = Reader::new(frame.clone());
        reader.i32().map_err(FrameError::Header)?; // API key and version
        let correlation_id = reader.i32().map_err(FrameError::Header)?;
        Ok(Context {
            api,
            version,
            correlation_id,
            client_id: String::new(),
            peer: UNKNOWN_PEER,
            listener: Arc::from(""),
            held: Mutex::default(),
            announced: Mutex::default(),
        })
    }

    /// Reads the header; gives the context and the body.
    pub(crate) fn open(
        frame: Bytes,
        api: ApiKey,
        version: i16,
        peer: SocketAddr,
        listener: Arc<str>,
    ) -> Result<(Context, Bytes), FrameError> {
        let mut reader = Reader::new(frame);
        let header = RequestHeader::decode(&mut reader, request_header_version(api, version))
            .map_err(FrameError::Header)?;
        let client_id = header.client_id.unwrap_or_default();
        Ok((
            Context {
                api,
                version,
                correlation_id: header.correlation_id,
                client_id,
                peer,
                listener,
                held: Mutex::default(),
                announced: Mutex::default(),
            },
            reader.rest(),
        ))
    }
}
