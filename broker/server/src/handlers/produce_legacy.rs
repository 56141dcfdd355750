//! Produce versions 0 to 2, which Kafka 4 dropped: every partition is refused with
//! UNSUPPORTED_VERSION in the layout that its sender reads (KIP-896).

use crate::context::{Context, UNKNOWN_PEER};
use crate::net::{FrameError, finish, start};
use bytes::Bytes;
use std::collections::VecDeque;
use tidemark_log::Piece;
use tidemark_wire::{ApiKey, DecodeError, ErrorCode, Reader};

/// The topics and partitions of the request, in order.
fn targets(reader: &mut Reader) -> Result<Vec<(String, Vec<i32>)>, DecodeError> {
    let _acks = reader.i16()?;
    let _timeout_ms = reader.i32()?;
    reader.array(false, |r| {
        let topic = r.string(false)?;
        let partitions = r.array(false, |r| {
            let partition = r.i32()?;
            r.nullable_bytes(false, true)?;
            Ok(partition)
        })?;
        Ok((topic, partitions))
    })
}

/// The refusal of every partition of `frame`, a whole request.
pub(crate) fn refuse(version: i16, frame: &Bytes) -> Result<VecDeque<Piece>, FrameError> {
    let failed = |source| FrameError::Decode {
        api: ApiKey::Produce,
        version,
        source,
    };
    let (context, body) = Context::open(
        frame.clone(),
        ApiKey::Produce,
        version,
        UNKNOWN_PEER,
        "".into(),
    )?;
    let mut reader = Reader::new(body);
    let topics = targets(&mut reader).map_err(failed)?;
    let mut writer = start(&context)?;
    let failed = |source| FrameError::Encode {
        api: ApiKey::Produce,
        version,
        source,
    };
    writer
        .array(&topics, false, |w, (topic, partitions)| {
            w.string(topic, false)?;
            w.array(partitions, false, |w, partition| {
                w.i32(*partition);
                w.i16(ErrorCode::UnsupportedVersion.code());
                w.i64(-1); // base offset
                if version >= 2 {
                    w.i64(-1); // log append time
                }
                Ok(())
            })
        })
        .map_err(failed)?;
    if version >= 1 {
        writer.i32(0); // throttle time
    }
    finish(&context, writer)
}
