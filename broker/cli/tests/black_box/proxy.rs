//! A proxy that stands between a client and a broker and changes what the broker says: the way to
//! show the doctor an illness that a healthy broker does not have.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tidemark_wire::messages::{DescribeLogDirsResponse, MetadataResponse};
use tidemark_wire::{ApiKey, Message, response_header_version};

/// Changes the body of an answer.
pub type Change = fn(ApiKey, i16, Bytes, port: u16) -> Bytes;

/// What was asked, by correlation id.
type Asked = Arc<Mutex<HashMap<[u8; 4], (ApiKey, i16)>>>;

/// Listens on a free port for the life of the test and answers it.
pub fn start(broker: &str, change: Change) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = broker.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(&broker).unwrap();
            let asked = Asked::default();
            let (from, to, noted) = (
                client.try_clone().unwrap(),
                server.try_clone().unwrap(),
                asked.clone(),
            );
            std::thread::spawn(move || {
                carry(from, to, |frame| {
                    let key = i16::from_be_bytes([frame[0], frame[1]]);
                    let version = i16::from_be_bytes([frame[2], frame[3]]);
                    let id = [frame[4], frame[5], frame[6], frame[7]];
                    noted
                        .lock()
                        .unwrap()
                        .insert(id, (ApiKey::from_i16(key).unwrap(), version));
                    frame
                });
            });
            std::thread::spawn(move || {
                carry(server, client, |frame| {
                    let id = [frame[0], frame[1], frame[2], frame[3]];
                    let Some((api, version)) = asked.lock().unwrap().remove(&id) else {
                        return frame;
                    };
                    let header = 4 + usize::from(response_header_version(api, version) > 0);
                    let body = change(api, version, frame.slice(header..), port);
                    [&frame[..header], &body].concat().into()
                });
            });
        }
    });
    port
}

/// Carries frames until one side is gone.
fn carry(mut from: TcpStream, mut to: TcpStream, mut change: impl FnMut(Bytes) -> Bytes) {
    loop {
        let mut length = [0; 4];
        if from.read_exact(&mut length).is_err() {
            break;
        }
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        if from.read_exact(&mut frame).is_err() {
            break;
        }
        let frame = change(frame.into());
        let length = (frame.len() as u32).to_be_bytes();
        if to.write_all(&[&length[..], &frame].concat()).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    drop(to.shutdown(Shutdown::Both));
}

fn edit<M: Message>(version: i16, body: Bytes, edit: impl FnOnce(&mut M)) -> Bytes {
    let mut message: M = tidemark_wire::decode(body, version).unwrap();
    edit(&mut message);
    tidemark_wire::encode(&message, version).unwrap()
}

/// Brokers advertise the proxy, so that every request passes through it.
fn through_proxy(api: ApiKey, version: i16, body: Bytes, port: u16) -> Bytes {
    if api != ApiKey::Metadata {
        return body;
    }
    edit(version, body, |metadata: &mut MetadataResponse| {
        for broker in &mut metadata.brokers {
            broker.port = i32::from(port);
        }
    })
}

/// A disk with 1 GiB of 100 left.
pub fn nearly_full(api: ApiKey, version: i16, body: Bytes, port: u16) -> Bytes {
    if api == ApiKey::DescribeLogDirs {
        return edit(version, body, |dirs: &mut DescribeLogDirsResponse| {
            for dir in &mut dirs.results {
                dir.total_bytes = 100 << 30;
                dir.usable_bytes = 1 << 30;
            }
        });
    }
    through_proxy(api, version, body, port)
}

/// A disk that the broker has given up.
pub fn failed_disk(api: ApiKey, version: i16, body: Bytes, port: u16) -> Bytes {
    if api == ApiKey::DescribeLogDirs {
        return edit(version, body, |dirs: &mut DescribeLogDirsResponse| {
            for dir in &mut dirs.results {
                dir.error_code = tidemark_wire::ErrorCode::KafkaStorageError.code();
            }
        });
    }
    through_proxy(api, version, body, port)
}

/// A second replica that is behind, and partitions without a leader.
pub fn ill_replicas(api: ApiKey, version: i16, body: Bytes, port: u16) -> Bytes {
    let body = through_proxy(api, version, body, port);
    if api != ApiKey::Metadata {
        return body;
    }
    edit(version, body, |metadata: &mut MetadataResponse| {
        for topic in &mut metadata.topics {
            for partition in &mut topic.partitions {
                if partition.partition_index == 0 {
                    partition.leader_id = -1;
                } else {
                    partition.replica_nodes.push(9);
                }
            }
        }
    })
}
