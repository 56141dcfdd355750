//! A blocking connection that speaks [`crate::wire`]: for what librdkafka does not show.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::wire::{self, ByPartition, frame};

/// One connection, one request at a time.
pub struct Raw {
    stream: TcpStream,
    correlation: i32,
}

/// No answer takes longer, or the connection is given up.
const PATIENCE: Duration = Duration::from_secs(60);

impl Raw {
    /// Connects to `host:port`.
    pub fn connect(address: &str) -> Result<Raw> {
        let stream = TcpStream::connect(address)?;
        // A client's own port may be the one that it connects to: then it has met itself.
        if stream.local_addr()? == stream.peer_addr()? {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Raw {
            stream,
            correlation: 0,
        })
    }

    fn call(&mut self, api: (i16, i16), body: &[u8]) -> Result<Vec<u8>> {
        self.correlation += 1;
        self.stream.write_all(&frame(api, self.correlation, body))?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).map_err(|_| unreadable())?;
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        if answer.get(..4) != Some(&self.correlation.to_be_bytes()) {
            return Err(unreadable());
        }
        answer.drain(..4);
        Ok(answer)
    }

    /// Produces with acks=all: error code and base offset by partition.
    pub fn produce(&mut self, batches: &ByPartition<Vec<u8>>) -> Result<ByPartition<(i16, i64)>> {
        let body = wire::produce(batches, PATIENCE.as_millis() as i32);
        wire::produced(&self.call(wire::PRODUCE, &body)?).ok_or_else(unreadable)
    }

    /// Ends of logs: error code and offset by partition.
    pub fn ends(&mut self, partitions: &ByPartition<()>) -> Result<ByPartition<(i16, i64)>> {
        let body = wire::list_ends(partitions);
        wire::listed(&self.call(wire::LIST_OFFSETS, &body)?).ok_or_else(unreadable)
    }

    /// One fetch; the answer is read by [`wire::fetched`].
    pub fn fetch(
        &mut self,
        session_id: i32,
        session_epoch: i32,
        offsets: &ByPartition<i64>,
    ) -> Result<Vec<u8>> {
        let body = wire::fetch(session_id, session_epoch, offsets);
        self.call(wire::FETCH, &body)
    }
}

/// An answer that is not one.
pub fn unreadable() -> Error {
    Error::new(ErrorKind::InvalidData, "an answer that cannot be read")
}
