//! Frames: a four-byte length, a header, a body.

use crate::context::Context;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use tidemark_log::Piece;
use tidemark_wire::messages::ResponseHeader;
use tidemark_wire::{
    ApiKey, DecodeError, EncodeError, ErrorCode, Message, Reader, Segment, Writer,
    response_header_version,
};

/// Why a connection cannot go on: what came is not a request of this protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// A length outside of what a request may have.
    #[error(
        "a frame of {length} bytes was announced, at most {limit} are allowed (socket.request.max.bytes)"
    )]
    Length { length: i32, limit: i32 },
    /// The first bytes of a TLS client.
    #[error("the client speaks TLS to a listener of PLAINTEXT")]
    Tls,
    /// An API that Kafka 4.3 does not have, or that this broker does not serve.
    #[error("API key {key} (version {version}) is not served")]
    Api { key: i16, version: i16 },
    /// A version of a known API that this broker does not serve.
    #[error("{api} version {version} is not served, versions {first} to {last} are")]
    Version {
        api: ApiKey,
        version: i16,
        first: i16,
        last: i16,
    },
    /// The header or body is not what its version says.
    #[error("{api} version {version} does not decode: {source}")]
    Decode {
        api: ApiKey,
        version: i16,
        source: DecodeError,
    },
    /// A produce request that wants no answer failed; the end of its connection has its producer
    /// look for the leader anew, as in Kafka.
    #[error("a produce request with acks=0 was refused: {}", .0.name())]
    Unanswered(ErrorCode),
    /// The header itself is cut short.
    #[error("request header does not decode: {0}")]
    Header(DecodeError),
    /// The controller was asked on behalf of the client, and its answer did not come.
    #[error("the controller was asked, and its answer did not come: {0}")]
    Controller(String),
    /// Our own answer announces records that it does not come with; a defect of the broker.
    #[error("{api}: {missing} bytes of records were announced and are not there")]
    Announced { api: ApiKey, missing: usize },
    /// Our own answer does not fit the version asked for; a defect of the broker.
    #[error("{api} version {version}: the answer does not encode: {source}")]
    Encode {
        api: ApiKey,
        version: i16,
        source: EncodeError,
    },
}

/// The length of the frame at the start of `buffer`, once its four bytes are there.
pub(super) fn length(buffer: &BytesMut, limit: i32) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*prefix);
    // A handshake record of TLS; as a length it would be 369 MB.
    if let [0x16, 3, 0..=4, _] = prefix
        && length > limit
    {
        return Err(FrameError::Tls);
    }
    match usize::try_from(length) {
        Ok(size) if length <= limit => Ok(Some(size)),
        _ => Err(FrameError::Length { length, limit }),
    }
}

/// Takes a whole frame of `length` bytes off `buffer`; the bytes are shared, not copied.
pub(super) fn take(buffer: &mut BytesMut, length: usize) -> Bytes {
    buffer.advance(4);
    buffer.split_to(length).freeze()
}

/// The API and version that a request names, before its header is understood.
pub(crate) fn peek(frame: &Bytes) -> Result<(i16, i16), FrameError> {
    let mut reader = Reader::new(frame.clone());
    let key = reader.i16().map_err(FrameError::Header)?;
    let version = reader.i16().map_err(FrameError::Header)?;
    Ok((key, version))
}

/// An answer in parts ready for the socket: length, header, body. Records that the answer only
/// announces are taken from the context, in order.
pub(crate) fn answer<M: Message>(
    context: &Context,
    response: &M,
) -> Result<VecDeque<Piece>, FrameError> {
    let failed = |source| FrameError::Encode {
        api: context.api,
        version: context.version,
        source,
    };
    let mut writer = start(context)?;
    response
        .encode(&mut writer, context.version)
        .map_err(failed)?;
    finish(context, writer)
}

/// A writer that holds the answer's header.
pub(crate) fn start(context: &Context) -> Result<Writer, FrameError> {
    let mut writer = Writer::announcing(256);
    let header = ResponseHeader {
        correlation_id: context.correlation_id,
        ..Default::default()
    };
    header
        .encode(
            &mut writer,
            response_header_version(context.api, context.version),
        )
        .map_err(|source| FrameError::Encode {
            api: context.api,
            version: context.version,
            source,
        })?;
    Ok(writer)
}

/// Puts the length in front, and the announced records in their places.
pub(crate) fn finish(context: &Context, writer: Writer) -> Result<VecDeque<Piece>, FrameError> {
    let length = u32::try_from(writer.written()).unwrap_or(u32::MAX);
    let mut announced = context.take_announced().into_iter();
    let mut pieces = VecDeque::with_capacity(4);
    pieces.push_back(Piece::Memory(Bytes::copy_from_slice(&length.to_be_bytes())));
    for segment in writer.into_segments() {
        match segment {
            Segment::Bytes(bytes) => pieces.push_back(Piece::Memory(bytes)),
            Segment::Elsewhere(mut len) => {
                while len > 0 {
                    let next = announced.next().filter(|piece| piece.len() <= len);
                    let piece = next.ok_or(FrameError::Announced {
                        api: context.api,
                        missing: len,
                    })?;
                    len -= piece.len();
                    pieces.push_back(piece);
                }
            }
        }
    }
    Ok(pieces)
}
