//! Incremental fetch sessions (KIP-227).

use crate::common::{Connection, broker};
use crate::kit::*;
use tidemark_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use tidemark_wire::messages::*;
use tidemark_wire::{ErrorCode, Uuid};

/// The first version that names topics by id.
const BY_ID: i16 = 13;
const LONG_MS: i32 = 600_000;

/// A session as a client keeps it.
struct Session {
    id: i32,
    epoch: i32,
}

impl Session {
    async fn open(c: &mut Connection, topic: &str, partitions: Vec<FetchPartition>) -> Session {
        let request = FetchRequest {
            session_epoch: 0,
            ..fetch_request(topic, partitions)
        };
        let response = c.ask(&request, BY_NAME).await;
        assert_eq!(response.error_code, NONE);
        assert_ne!(response.session_id, 0, "a session");
        Session {
            id: response.session_id,
            epoch: 1,
        }
    }

    fn next(&mut self, request: FetchRequest) -> FetchRequest {
        let epoch = self.epoch;
        self.epoch += 1;
        FetchRequest {
            session_id: self.id,
            session_epoch: epoch,
            ..request
        }
    }
}

fn indexes(response: &FetchResponse) -> Vec<i32> {
    let mut all: Vec<i32> = partitions_of(response)
        .iter()
        .map(|p| p.partition_index)
        .collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn incremental_answers_carry_only_news() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 3).await;
    let mut session = Session::open(&mut c, "t", (0..3).map(|i| from(i, 0)).collect()).await;
    let response = c
        .ask(&session.next(fetch_request("t", vec![])), BY_NAME)
        .await;
    assert_eq!(response.session_id, session.id);
    assert_eq!(indexes(&response), Vec::<i32>::new());
    put(&mut c, "t", 1, b"news").await;
    let response = c
        .ask(&session.next(fetch_request("t", vec![])), BY_NAME)
        .await;
    assert_eq!(indexes(&response), [1]);
    assert_eq!(values(partitions_of(&response)[0]).len(), 1);
    let response = c
        .ask(&session.next(fetch_request("t", vec![from(1, 1)])), BY_NAME)
        .await;
    assert_eq!(
        indexes(&response),
        Vec::<i32>::new(),
        "offset moved, nothing new"
    );
}

#[tokio::test]
async fn an_append_wakes_the_long_poll_of_a_session() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let mut writer = Connection::open(&broker.server).await;
    topic(&mut c, "t", 2).await;
    let mut session = Session::open(&mut c, "t", vec![from(0, 0), from(1, 0)]).await;
    for turn in 0..3 {
        let poll = FetchRequest {
            max_wait_ms: LONG_MS,
            ..session.next(fetch_request("t", vec![from(1, turn)]))
        };
        let id = c.send(&poll, BY_NAME).await;
        put(&mut writer, "t", 1, b"x").await;
        let response = c.answer::<FetchRequest>(BY_NAME, id).await.unwrap();
        assert_eq!(indexes(&response), [1]);
        assert_eq!(values(partitions_of(&response)[0]), [(turn, b"x".to_vec())]);
    }
}

#[tokio::test]
async fn records_that_a_client_did_not_take_are_sent_again() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let mut session = Session::open(&mut c, "t", vec![from(0, 0)]).await;
    put(&mut c, "t", 0, b"x").await;
    for _ in 0..3 {
        // The client threw the answer away and asks from the same offset: that is not said again.
        let response = c
            .ask(&session.next(fetch_request("t", vec![])), BY_NAME)
            .await;
        assert_eq!(indexes(&response), [0]);
    }
}

#[tokio::test]
async fn a_moved_log_start_is_news() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    for _ in 0..3 {
        put(&mut c, "t", 0, b"x").await;
    }
    let mut session = Session::open(&mut c, "t", vec![from(0, 3)]).await;
    delete_records(&mut c, "t", 0, 2).await;
    let response = c
        .ask(&session.next(fetch_request("t", vec![])), BY_NAME)
        .await;
    assert_eq!(partitions_of(&response)[0].log_start_offset, 2);
}

#[tokio::test]
async fn forgotten_partitions_are_not_answered_any_more() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 3).await;
    let mut session = Session::open(&mut c, "t", vec![from(0, 0), from(1, 0)]).await;
    // The new partition takes the place of the forgotten one.
    let change = FetchRequest {
        forgotten_topics_data: forgetting("t", vec![0]),
        ..fetch_request("t", vec![from(2, 0)])
    };
    c.ask(&session.next(change), BY_NAME).await;
    for index in 0..3 {
        put(&mut c, "t", index, b"x").await;
    }
    let response = c
        .ask(&session.next(fetch_request("t", vec![])), BY_NAME)
        .await;
    assert_eq!(indexes(&response), [1, 2]);
}

#[tokio::test]
async fn a_wrong_epoch_or_an_unknown_session_is_refused() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let id = topic(&mut c, "t", 1).await;
    let session = Session::open(&mut c, "t", vec![from(0, 0)]).await;
    let ask = |session_id, session_epoch| FetchRequest {
        session_id,
        session_epoch,
        ..fetch_request("t", vec![])
    };
    let invalid = code(ErrorCode::InvalidFetchSessionEpoch);
    let unknown = code(ErrorCode::FetchSessionIdNotFound);
    assert_eq!(
        c.ask(&ask(session.id, 2), BY_NAME).await.error_code,
        invalid
    );
    assert_eq!(
        c.ask(&ask(session.id ^ 1, 1), BY_NAME).await.error_code,
        unknown
    );
    assert_eq!(c.ask(&ask(session.id, 1), BY_NAME).await.error_code, NONE);
    assert_eq!(
        c.ask(&ask(session.id, 1), BY_NAME).await.error_code,
        invalid,
        "epoch 1 is used up"
    );
    let by_id = FetchRequest {
        topics: vec![FetchTopic {
            topic_id: id,
            partitions: vec![from(0, 0)],
            ..Default::default()
        }],
        ..ask(session.id, 2)
    };
    assert_eq!(
        c.ask(&by_id, BY_ID).await.error_code,
        code(ErrorCode::FetchSessionTopicIdError)
    );
}

#[tokio::test]
async fn a_final_epoch_closes_the_session_and_answers_in_full() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let session = Session::open(&mut c, "t", vec![from(0, 0)]).await;
    let last = FetchRequest {
        session_id: session.id,
        session_epoch: -1,
        ..fetch_request("t", vec![from(0, 0)])
    };
    let response = c.ask(&last, BY_NAME).await;
    assert_eq!((response.error_code, response.session_id), (NONE, 0));
    assert_eq!(indexes(&response), [0]);
    let again = FetchRequest {
        session_id: session.id,
        session_epoch: 1,
        ..fetch_request("t", vec![])
    };
    assert_eq!(
        c.ask(&again, BY_NAME).await.error_code,
        code(ErrorCode::FetchSessionIdNotFound)
    );
}

#[tokio::test]
async fn without_a_free_slot_a_client_is_served_without_a_session() {
    let broker = broker(&[("max.incremental.fetch.session.cache.slots", "1")]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    put(&mut c, "t", 0, b"x").await;
    let mut first = Session::open(&mut c, "t", vec![from(0, 1)]).await;
    let full = FetchRequest {
        session_epoch: 0,
        ..fetch_request("t", vec![from(0, 0)])
    };
    let response = c.ask(&full, BY_NAME).await;
    assert_eq!((response.error_code, response.session_id), (NONE, 0));
    assert_eq!(values(partitions_of(&response)[0]).len(), 1);
    // The one that had the slot keeps it.
    let response = c
        .ask(&first.next(fetch_request("t", vec![])), BY_NAME)
        .await;
    assert_eq!(response.error_code, NONE);
}

#[tokio::test]
async fn opening_a_session_anew_frees_the_slot_of_the_old_one() {
    let broker = broker(&[("max.incremental.fetch.session.cache.slots", "1")]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let first = Session::open(&mut c, "t", vec![from(0, 0)]).await;
    let anew = FetchRequest {
        session_id: first.id,
        session_epoch: 0,
        ..fetch_request("t", vec![from(0, 0)])
    };
    assert_ne!(c.ask(&anew, BY_NAME).await.session_id, 0);
}

/// Red without `sort_by_key` in `Interest::take_turns`: whoever was just served is named by the
/// request, is looked at first again, and the others never come.
#[tokio::test]
async fn no_partition_of_a_session_starves_while_the_others_are_always_full() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 4).await;
    for index in 0..4 {
        for _ in 0..12 {
            put(&mut c, "t", index, &[1; 1000]).await;
        }
    }
    let one_batch = FetchRequest {
        max_bytes: 1500,
        session_epoch: 0,
        ..fetch_request("t", (0..4).map(|index| from(index, 0)).collect())
    };
    let mut at = [0; 4];
    let mut response = c.ask(&one_batch, BY_NAME).await;
    let mut session = Session {
        id: response.session_id,
        epoch: 1,
    };
    for _ in 0..12 {
        let mut moved = Vec::new();
        for answered in partitions_of(&response) {
            let index = answered.partition_index;
            if let Some((last, _)) = values(answered).last() {
                at[index as usize] = last + 1;
                moved.push(from(index, last + 1));
            }
        }
        assert_eq!(moved.len(), 1, "one batch fits");
        let next = FetchRequest {
            max_bytes: 1500,
            max_wait_ms: LONG_MS,
            ..session.next(fetch_request("t", moved))
        };
        response = c.ask(&next, BY_NAME).await;
    }
    assert_eq!(at, [3, 3, 3, 3], "every partition had its turn");
}

fn by_id(topic_id: Uuid, partitions: Vec<FetchPartition>) -> FetchRequest {
    FetchRequest {
        topics: vec![FetchTopic {
            topic_id,
            partitions,
            ..Default::default()
        }],
        ..fetch_request("", vec![])
    }
}

#[tokio::test]
async fn a_session_outlives_a_topic_that_is_deleted_and_created_again() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let mut admin = Connection::open(&broker.server).await;
    let old = topic(&mut c, "t", 1).await;
    let kept = topic(&mut c, "kept", 1).await;
    let mut open = by_id(old, vec![from(0, 0)]);
    open.topics.extend(by_id(kept, vec![from(0, 0)]).topics);
    open.session_epoch = 0;
    let response = c.ask(&open, BY_ID).await;
    let mut session = Session {
        id: response.session_id,
        epoch: 1,
    };
    // Parked when the topic goes.
    let parked = FetchRequest {
        max_wait_ms: LONG_MS,
        ..session.next(fetch_request("", vec![]))
    };
    let id = c.send(&parked, BY_ID).await;
    assert_eq!(delete_topic(&mut admin, "t").await, NONE);
    let response = c.answer::<FetchRequest>(BY_ID, id).await.unwrap();
    assert_eq!(
        (response.error_code, response.responses[0].topic_id),
        (NONE, old)
    );
    let unknown = code(ErrorCode::UnknownTopicId);
    assert_eq!(partitions_of(&response)[0].error_code, unknown);
    let new = topic(&mut admin, "t", 1).await;
    put(&mut admin, "t", 0, b"new").await;
    // The old id is told of until it is forgotten, and gives nothing of the new topic.
    let response = c.ask(&session.next(fetch_request("", vec![])), BY_ID).await;
    assert_eq!(partitions_of(&response)[0].error_code, unknown);
    let mut change = session.next(by_id(new, vec![from(0, 0)]));
    change.forgotten_topics_data = forgetting("", vec![0]);
    change.forgotten_topics_data[0].topic_id = old;
    let response = c.ask(&change, BY_ID).await;
    assert_eq!(response.responses.len(), 1);
    assert_eq!(response.responses[0].topic_id, new);
    assert_eq!(values(partitions_of(&response)[0]), [(0, b"new".to_vec())]);
    put(&mut admin, "kept", 0, b"still").await;
    let response = c
        .ask(&session.next(by_id(new, vec![from(0, 1)])), BY_ID)
        .await;
    assert_eq!(
        response.responses[0].topic_id, kept,
        "the rest of the session goes on"
    );
}

#[tokio::test]
async fn a_session_by_name_goes_on_with_the_topic_that_took_the_name() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    put(&mut c, "t", 0, b"old").await;
    let mut session = Session::open(&mut c, "t", vec![from(0, 1)]).await;
    delete_topic(&mut c, "t").await;
    let response = c
        .ask(&session.next(fetch_request("t", vec![])), BY_NAME)
        .await;
    assert_eq!(
        partitions_of(&response)[0].error_code,
        code(ErrorCode::UnknownTopicOrPartition)
    );
    topic(&mut c, "t", 1).await;
    let response = c
        .ask(&session.next(fetch_request("t", vec![])), BY_NAME)
        .await;
    assert_eq!(
        partitions_of(&response)[0].error_code,
        code(ErrorCode::OffsetOutOfRange),
        "the new log is empty"
    );
    let response = c
        .ask(&session.next(fetch_request("t", vec![from(0, 0)])), BY_NAME)
        .await;
    assert_eq!(partitions_of(&response)[0].error_code, NONE);
    put(&mut c, "t", 0, b"new").await;
    let response = c
        .ask(&session.next(fetch_request("t", vec![])), BY_NAME)
        .await;
    assert_eq!(values(partitions_of(&response)[0]), [(0, b"new".to_vec())]);
}
