//! What strangers send: any bytes give a value or an error.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use openraft::CommittedLeaderId;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use proptest::prelude::*;
use tidemark_env::clock;
use tidemark_env::net::Stream;
use tidemark_wire::Uuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::super::codec::Reader;
use super::super::snapshot;
use super::super::wire::{
    Hello, MOST_FRAME_BYTES, PROTOCOL_VERSION, Request, Response, Welcome, receive, send,
};
use super::super::*;
use super::cluster::{CLUSTER, Cluster, node, set};
use super::*;

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(3, voter(1, 1)), index)
}

fn entries() -> Vec<Entry> {
    let membership = Membership::new(
        vec![[voter(1, 1)].into(), [voter(1, 1), voter(2, 1)].into()],
        InitialVoters::from([(voter(1, 1), node(1)), (voter(2, 1), node(2))]),
    );
    let payloads = vec![
        EntryPayload::Blank,
        EntryPayload::Membership(membership),
        EntryPayload::Normal(Proposal {
            epoch: 3,
            batches: vec![Batch::new(set("a")), Batch::new(set("b"))],
        }),
    ];
    (0..)
        .zip(payloads)
        .map(|(index, payload)| Entry {
            log_id: id(index),
            payload,
        })
        .collect()
}

/// One of each kind, encoded.
fn requests() -> Vec<Vec<u8>> {
    let requests = [
        Request::Append(AppendEntriesRequest {
            vote: Vote::new_committed(3, voter(1, 1)),
            prev_log_id: Some(id(7)),
            entries: entries(),
            leader_commit: None,
        }),
        Request::Vote(VoteRequest {
            vote: Vote::new(4, voter(2, 1)),
            last_log_id: Some(id(9)),
        }),
        Request::Install {
            vote: Vote::new_committed(3, voter(1, 1)),
            total: 10,
            offset: 5,
            part: Bytes::from_static(b"12345"),
        },
        Request::Fetch {
            after: Some(id(4)),
            max_bytes: 1000,
            max_wait_ms: 500,
        },
        Request::FetchSnapshot {
            last: id(4),
            offset: 7,
            max_bytes: 8,
        },
        Request::Forward(Bytes::from_static(b"forward")),
        Request::Status,
    ];
    requests.iter().map(Request::encode).collect()
}

fn responses() -> Vec<Vec<u8>> {
    let responses = [
        Response::Append(AppendEntriesResponse::PartialSuccess(Some(id(3)))),
        Response::Append(AppendEntriesResponse::HigherVote(Vote::new(9, voter(2, 2)))),
        Response::Vote(VoteResponse {
            vote: Vote::new(4, voter(1, 1)),
            vote_granted: true,
            last_log_id: None,
        }),
        Response::Installed(Some(Vote::new(4, voter(1, 1)))),
        Response::Fetched {
            entries: entries(),
            committed: Some(id(2)),
            leader: Some(voter(1, 1)),
        },
        Response::Snapshot {
            last: id(3),
            total: 77,
        },
        Response::SnapshotPart(Bytes::from_static(b"part")),
        Response::Forwarded(Bytes::from_static(b"answer")),
        Response::NotLeader(Some(voter(1, 1))),
        Response::Status(NodeStatus {
            voter: voter(1, 1),
            term: 4,
            leader: None,
            last: Some(id(1)),
            applied: None,
        }),
        Response::Failed("no".to_owned()),
    ];
    responses.iter().map(Response::encode).collect()
}

fn encoded_snapshot() -> Bytes {
    let mut fold = Fold::default();
    for entry in entries() {
        fold.apply(&entry);
    }
    snapshot::encode(&fold).0
}

/// Everything that reads bytes from elsewhere, over the same bytes.
fn read_all(bytes: &Bytes) {
    drop(Request::decode(bytes.clone()));
    drop(Response::decode(bytes.clone()));
    drop(Hello::decode(bytes));
    drop(Welcome::decode(bytes.clone()));
    drop(Reader::new(bytes.clone()).entry());
    drop(Reader::new(bytes.clone()).stored_membership());
    drop(snapshot::decode(
        Path::new("x"),
        &SnapshotBytes(bytes.clone()),
    ));
}

#[test]
fn what_is_said_is_understood() {
    for bytes in requests() {
        let request = Request::decode(bytes.clone().into()).unwrap();
        assert_eq!(request.encode(), bytes);
    }
    for bytes in responses() {
        let response = Response::decode(bytes.clone().into()).unwrap();
        assert_eq!(response.encode(), bytes);
    }
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster_id: CLUSTER,
        from: voter(1, 1),
        to: Some(voter(2, 2)),
    };
    assert_eq!(
        Hello::decode(&hello.encode().into()).unwrap(),
        Ok(hello.clone())
    );
    let newer = Hello {
        version: 9,
        ..hello
    };
    assert_eq!(Hello::decode(&newer.encode().into()).unwrap(), Err(9));
    let bytes = encoded_snapshot();
    let fold = snapshot::decode(Path::new("x"), &SnapshotBytes(bytes.clone())).unwrap();
    assert_eq!(fold.applied, Some(id(2)));
    assert_eq!(snapshot::encode(&fold).0, bytes);
}

#[test]
fn a_changed_snapshot_is_refused() {
    let bytes = encoded_snapshot();
    for at in 0..bytes.len() {
        let mut changed = bytes.to_vec();
        changed[at] ^= 4;
        let changed = SnapshotBytes(changed.into());
        assert!(
            snapshot::decode(Path::new("x"), &changed).is_err(),
            "byte {at}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_bytes_give_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_all(&bytes.into());
    }

    #[test]
    fn so_do_changed_ones(
        pick in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut all = requests();
        all.extend(responses());
        let mut bytes = pick.get(&all).clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        read_all(&bytes.into());
    }

    #[test]
    fn a_listener_survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        paused(async {
            let (mut mine, theirs) = duplex(1 << 16);
            let mut theirs = Stream::new(theirs);
            mine.write_all(&bytes).await.unwrap();
            drop(mine);
            while let Ok(Some(frame)) = receive(&mut theirs).await {
                read_all(&frame);
            }
        });
    }
}

#[test]
fn a_length_alone_reserves_nothing_and_one_that_is_too_long_ends_it() {
    paused(async {
        let (mine, mut theirs) = duplex(1 << 16);
        let mut mine = Stream::new(mine);
        let too_long = u32::try_from(MOST_FRAME_BYTES + 1).unwrap();
        theirs.write_all(&too_long.to_be_bytes()).await.unwrap();
        theirs.write_all(&[0; 4]).await.unwrap();
        let error = receive(&mut mine).await.unwrap_err();
        assert!(error.to_string().contains("is the most"), "{error}");
        // A wrong checksum.
        let (mut mine, mut theirs) = {
            let (mine, theirs) = duplex(1 << 16);
            (Stream::new(mine), theirs)
        };
        let mut frame = Vec::new();
        let (mut sender, mut wire) = {
            let (sender, wire) = duplex(1 << 16);
            (Stream::new(sender), wire)
        };
        send(&mut sender, b"hello").await.unwrap();
        drop(sender);
        wire.read_to_end(&mut frame).await.unwrap();
        *frame.last_mut().unwrap() ^= 1;
        theirs.write_all(&frame).await.unwrap();
        let error = receive(&mut mine).await.unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
    });
}

#[test]
fn a_voter_answers_strangers_clearly_and_serves_on() {
    paused(async {
        let cluster = Cluster::begin(1).await;
        cluster.wait_active().await;
        let quorum = cluster.at(0);
        let connect = || {
            let (mine, theirs) = duplex(1 << 16);
            quorum.serve(Stream::new(theirs));
            Stream::new(mine)
        };
        let greet = |version, cluster_id, to| {
            let mut stream = connect();
            async move {
                let hello = Hello {
                    version,
                    cluster_id,
                    from: voter(5, 1),
                    to,
                };
                send(&mut stream, &hello.encode()).await.unwrap();
                let welcome = receive(&mut stream).await.unwrap().unwrap();
                (Welcome::decode(welcome).unwrap(), stream)
            }
        };
        let (welcome, _) = greet(2, CLUSTER, None).await;
        assert_eq!(welcome, Welcome::Version(PROTOCOL_VERSION));
        let (welcome, _) = greet(1, Uuid([1; 16]), None).await;
        assert_eq!(welcome, Welcome::Cluster(CLUSTER));
        let (welcome, _) = greet(1, CLUSTER, Some(voter(0, 2))).await;
        assert_eq!(welcome, Welcome::Other(voter(0, 1)));
        let (welcome, mut stream) = greet(1, CLUSTER, None).await;
        assert_eq!(welcome, Welcome::Come(voter(0, 1)));
        for garbage in [&b"\xff\xff"[..], b"", b"\x00\x01"] {
            send(&mut stream, garbage).await.unwrap();
            let answer = receive(&mut stream).await.unwrap().unwrap();
            assert!(matches!(
                Response::decode(answer).unwrap(),
                Response::Failed(_)
            ));
        }
        // In the name of another voter.
        send(&mut stream, &requests()[0]).await.unwrap();
        let answer = receive(&mut stream).await.unwrap().unwrap();
        let Response::Failed(text) = Response::decode(answer).unwrap() else {
            panic!("it was taken");
        };
        assert!(text.contains("another node"), "{text}");
        // An observer that comes from another history is told so.
        let fetch = |after| Request::Fetch {
            after,
            max_bytes: 1000,
            max_wait_ms: 10,
        };
        let ours = quorum.fold().applied.unwrap();
        let theirs = LogId::new(CommittedLeaderId::new(77, voter(3, 3)), ours.index);
        for (after, refused) in [(ours, false), (theirs, true)] {
            send(&mut stream, &fetch(Some(after)).encode())
                .await
                .unwrap();
            let answer = receive(&mut stream).await.unwrap().unwrap();
            let answer = Response::decode(answer).unwrap();
            assert_eq!(matches!(answer, Response::Failed(_)), refused, "{answer:?}");
        }
        // Half a hello ends when its time is up.
        let mut silent = connect();
        silent.write_all(&[0, 0]).await.unwrap();
        let mut rest = Vec::new();
        let ended = clock::timeout(Duration::from_secs(6), silent.read_to_end(&mut rest));
        ended.await.unwrap().unwrap();
        assert!(quorum.is_active().is_some());
        cluster.end().await;
    });
}
