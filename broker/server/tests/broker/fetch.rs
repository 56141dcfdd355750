//! Fetch without sessions: long polls, limits, offsets, epochs.

use crate::common::{Connection, broker, start_in};
use crate::kit::*;
use std::time::Duration;
use tidemark_env::clock;
use tidemark_env::disk::{Disk, FileDisk, OpenMode};
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::fetch_request::FetchPartition;
use tidemark_wire::messages::*;

/// Longer than any test takes: who waits this long was not woken.
const LONG_MS: i32 = 600_000;

fn long_poll(topic: &str, min_bytes: i32, max_wait_ms: i32, offset: i64) -> FetchRequest {
    FetchRequest {
        min_bytes,
        max_wait_ms,
        ..fetch_request(topic, vec![from(0, offset)])
    }
}

#[tokio::test]
async fn an_append_wakes_a_long_poll() {
    let broker = broker(&[]).await;
    let mut reader = Connection::open(&broker.server).await;
    let mut writer = Connection::open(&broker.server).await;
    topic(&mut writer, "t", 1).await;
    let id = reader.send(&long_poll("t", 1, LONG_MS, 0), BY_NAME).await;
    put(&mut writer, "t", 0, b"news").await;
    let response = reader.answer::<FetchRequest>(BY_NAME, id).await.unwrap();
    assert_eq!(values(partitions_of(&response)[0]), [(0, b"news".to_vec())]);
}

#[tokio::test]
async fn a_long_poll_waits_for_its_min_bytes_over_all_its_partitions() {
    let broker = broker(&[]).await;
    let mut reader = Connection::open(&broker.server).await;
    let mut writer = Connection::open(&broker.server).await;
    topic(&mut writer, "t", 2).await;
    put(&mut writer, "t", 0, &[1; 300]).await;
    let request = FetchRequest {
        min_bytes: 1400,
        max_wait_ms: LONG_MS,
        ..fetch_request("t", vec![from(0, 0), from(1, 0)])
    };
    let id = reader.send(&request, BY_NAME).await;
    for _ in 0..3 {
        put(&mut writer, "t", 1, &[2; 300]).await;
    }
    let response = reader.answer::<FetchRequest>(BY_NAME, id).await.unwrap();
    assert!(bytes_of(&response) >= 1400, "{}", bytes_of(&response));
    let answered = partitions_of(&response);
    assert_eq!(values(answered[0]).len(), 1, "each record once");
    assert_eq!(values(answered[1]).len(), 3);
}

#[tokio::test]
async fn a_long_poll_answers_empty_when_its_time_is_up() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    put(&mut c, "t", 0, b"old").await;
    let started = clock::monotonic();
    let response = c.ask(&long_poll("t", 1, 150, 1), BY_NAME).await;
    assert!(started.elapsed() >= Duration::from_millis(150));
    let answered = partitions_of(&response);
    assert_eq!(
        (answered[0].error_code, answered[0].high_watermark),
        (NONE, 1)
    );
    assert!(values(answered[0]).is_empty());
}

#[tokio::test]
async fn what_there_is_is_answered_when_the_time_is_up_before_the_min_bytes() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    put(&mut c, "t", 0, b"little").await;
    let response = c.ask(&long_poll("t", 1 << 20, 100, 0), BY_NAME).await;
    assert_eq!(values(partitions_of(&response)[0]).len(), 1);
}

#[tokio::test]
async fn a_fetch_of_nothing_is_answered_at_once() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let request = FetchRequest {
        max_wait_ms: LONG_MS,
        ..fetch_request("t", Vec::new())
    };
    let response = c.ask(&request, BY_NAME).await;
    assert_eq!((response.error_code, response.responses.len()), (NONE, 0));
}

#[tokio::test]
async fn an_error_of_one_partition_ends_the_wait_of_all() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let request = FetchRequest {
        max_wait_ms: LONG_MS,
        ..fetch_request("t", vec![from(0, 0), from(7, 0)])
    };
    let response = c.ask(&request, BY_NAME).await;
    let errors: Vec<i16> = partitions_of(&response)
        .iter()
        .map(|p| p.error_code)
        .collect();
    assert_eq!(errors, [NONE, code(ErrorCode::UnknownTopicOrPartition)]);
}

#[tokio::test]
async fn a_first_batch_above_every_limit_comes_whole_and_alone() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 2).await;
    for index in 0..2 {
        put(&mut c, "t", index, &[7; 50_000]).await;
        put(&mut c, "t", index, b"small").await;
    }
    let small = |index| FetchPartition {
        partition_max_bytes: 100,
        ..from(index, 0)
    };
    let request = FetchRequest {
        max_bytes: 1000,
        ..fetch_request("t", vec![small(0), small(1)])
    };
    let response = c.ask(&request, BY_NAME).await;
    let answered = partitions_of(&response);
    assert_eq!(values(answered[0]), [(0, vec![7; 50_000])]);
    assert!(
        values(answered[1]).is_empty(),
        "only the first batch of all may exceed"
    );
}

#[tokio::test]
async fn the_limit_of_a_fetch_holds_over_all_partitions() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 4).await;
    for index in 0..4 {
        for _ in 0..5 {
            put(&mut c, "t", index, &[1; 1000]).await;
        }
    }
    let request = FetchRequest {
        max_bytes: 8000,
        ..fetch_request("t", (0..4).map(|index| from(index, 0)).collect())
    };
    let response = c.ask(&request, BY_NAME).await;
    let bytes = bytes_of(&response);
    assert!((5000..=8000).contains(&bytes), "{bytes}");
    for answered in partitions_of(&response) {
        assert_eq!(answered.high_watermark, 5, "all are told of all the same");
    }
}

#[tokio::test]
async fn an_offset_in_the_middle_of_a_batch_gives_the_whole_batch() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    produce(&mut c, "t", 0, batch(&[b"a", b"b", b"c"])).await;
    produce(&mut c, "t", 0, batch(&[b"d"])).await;
    let answered = read(&mut c, "t", 0, 1).await;
    let offsets: Vec<i64> = values(&answered)
        .into_iter()
        .map(|(offset, _)| offset)
        .collect();
    assert_eq!(offsets, [0, 1, 2, 3]);
}

#[tokio::test]
async fn offsets_outside_of_the_log_are_out_of_range_and_its_end_is_empty() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    for _ in 0..4 {
        put(&mut c, "t", 0, b"x").await;
    }
    assert_eq!(delete_records(&mut c, "t", 0, 2).await, (NONE, 2));
    let out_of_range = code(ErrorCode::OffsetOutOfRange);
    for (offset, error) in [
        (-1, out_of_range),
        (1, out_of_range),
        (4, NONE),
        (5, out_of_range),
    ] {
        let answered = read(&mut c, "t", 0, offset).await;
        assert_eq!(answered.error_code, error, "offset {offset}");
        assert!(values(&answered).is_empty(), "offset {offset}");
    }
    assert_eq!(values(&read(&mut c, "t", 0, 2).await).len(), 2);
}

#[tokio::test]
async fn clients_with_another_leader_epoch_are_fenced_or_told_to_wait() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    put(&mut c, "t", 0, b"x").await;
    let metadata = MetadataRequest {
        topics: None,
        ..Default::default()
    };
    let described = c.ask(&metadata, 9).await;
    let current = described.topics[0].partitions[0].leader_epoch;
    for (epoch, error) in [
        (current, ErrorCode::None),
        (current + 1, ErrorCode::UnknownLeaderEpoch),
        (current - 1, ErrorCode::FencedLeaderEpoch),
    ] {
        // -1 stands for "not said", so an older epoch than 0 cannot be asked about.
        if epoch < 0 {
            continue;
        }
        let wanted = FetchPartition {
            current_leader_epoch: epoch,
            ..from(0, 0)
        };
        let response = c.ask(&fetch_request("t", vec![wanted]), BY_NAME).await;
        assert_eq!(
            partitions_of(&response)[0].error_code,
            error.code(),
            "epoch {epoch}"
        );
    }
}

#[tokio::test]
async fn a_client_whose_log_parted_from_this_one_is_told_where() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    for _ in 0..3 {
        put(&mut c, "t", 0, b"x").await;
    }
    let epoch = batches(&read(&mut c, "t", 0, 0).await)[0]
        .header
        .partition_leader_epoch;
    // A client that has more records of this epoch than there are.
    let ahead = |epoch| FetchPartition {
        last_fetched_epoch: epoch,
        ..from(0, 5)
    };
    let request = FetchRequest {
        max_wait_ms: LONG_MS,
        ..fetch_request("t", vec![ahead(epoch)])
    };
    let response = c.ask(&request, BY_NAME).await;
    let answered = partitions_of(&response)[0];
    let diverging = &answered.diverging_epoch;
    assert_eq!(answered.error_code, NONE);
    assert_eq!((diverging.epoch, diverging.end_offset), (epoch, 3));
    assert!(values(answered).is_empty());
    // An epoch that never was has no end.
    let response = c
        .ask(&fetch_request("t", vec![ahead(epoch + 1)]), BY_NAME)
        .await;
    assert_eq!(
        partitions_of(&response)[0].error_code,
        code(ErrorCode::OffsetOutOfRange)
    );
    let same = FetchPartition {
        last_fetched_epoch: epoch,
        ..from(0, 2)
    };
    let response = c.ask(&fetch_request("t", vec![same]), BY_NAME).await;
    let answered = partitions_of(&response)[0];
    assert_eq!(answered.diverging_epoch.end_offset, -1);
    assert_eq!(values(answered).len(), 1);
}

/// Records lie in segment files and are sent from there; so is what was announced and is gone.
#[tokio::test]
async fn a_segment_that_is_cut_under_the_broker_ends_the_connection_and_not_the_broker() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 2).await;
    for index in 0..2 {
        for _ in 0..4 {
            put(&mut c, "t", index, &[1; 100_000]).await;
        }
    }
    // A new broker has none of it in memory.
    broker.server.shutdown().await;
    let server = start_in(&broker.dir, &[]).await;
    let path = broker.dir.path().join("t-0/00000000000000000000.log");
    let file = FileDisk::new().open(&path, OpenMode::ReadWrite).unwrap();
    file.set_len(250_000).unwrap();
    let mut c = Connection::open(&server).await;
    c.send(&fetch_request("t", vec![from(0, 0)]), BY_NAME).await;
    assert_eq!(c.frame().await, None);
    let mut c = Connection::open(&server).await;
    assert_eq!(values(&read(&mut c, "t", 1, 0).await).len(), 4);
}
