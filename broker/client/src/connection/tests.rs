use super::*;
use tidemark_wire::messages::api_versions_response::ApiVersion;
use tidemark_wire::messages::{FindCoordinatorRequest, MetadataRequest, MetadataResponse};
use tokio::io::DuplexStream;

/// The broker's end of a connection.
struct FakeBroker(DuplexStream);

struct Asked {
    api: i16,
    version: i16,
    correlation_id: i32,
}

impl FakeBroker {
    async fn asked(&mut self) -> Asked {
        let length = self.0.read_i32().await.unwrap();
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut frame).await.unwrap();
        Asked {
            api: i16::from_be_bytes([frame[0], frame[1]]),
            version: i16::from_be_bytes([frame[2], frame[3]]),
            correlation_id: i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]),
        }
    }

    async fn answer<M: Message>(&mut self, asked: &Asked, message: &M, version: i16) {
        let api = ApiKey::from_i16(asked.api).unwrap();
        let mut frame = asked.correlation_id.to_be_bytes().to_vec();
        if response_header_version(api, version) > 0 {
            frame.push(0);
        }
        frame.extend_from_slice(&tidemark_wire::encode(message, version).unwrap());
        self.send(&frame).await;
    }

    async fn send(&mut self, frame: &[u8]) {
        self.0
            .write_i32(i32::try_from(frame.len()).unwrap())
            .await
            .unwrap();
        self.0.write_all(frame).await.unwrap();
    }

    /// Answers the first exchange: these APIs up to these versions.
    async fn agree(&mut self, apis: &[(ApiKey, i16)]) {
        let asked = self.asked().await;
        assert_eq!(asked.api, ApiKey::ApiVersions as i16);
        self.answer(&asked, &versions(apis), asked.version).await;
    }
}

fn versions(apis: &[(ApiKey, i16)]) -> ApiVersionsResponse {
    ApiVersionsResponse {
        api_keys: apis
            .iter()
            .map(|(api, max_version)| ApiVersion {
                api_key: *api as i16,
                min_version: 0,
                max_version: *max_version,
                ..ApiVersion::default()
            })
            .collect(),
        ..ApiVersionsResponse::default()
    }
}

fn pair() -> (Stream, FakeBroker) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    (Stream::new(ours), FakeBroker(theirs))
}

fn options() -> ConnectionOptions {
    ConnectionOptions {
        max_response_bytes: 10_000,
        request_timeout: Duration::from_secs(2),
        ..ConnectionOptions::default()
    }
}

/// A connection that has agreed on versions.
async fn connected(apis: &'static [(ApiKey, i16)]) -> (Connection, FakeBroker) {
    let (stream, mut broker) = pair();
    let options = options();
    let (connection, ()) = tokio::join!(
        Connection::over(stream, "fake:9092", &options),
        broker.agree(apis)
    );
    (connection.unwrap(), broker)
}

fn cluster_named(name: &str) -> MetadataResponse {
    MetadataResponse {
        cluster_id: Some(name.to_owned()),
        ..MetadataResponse::default()
    }
}

#[tokio::test]
async fn the_newest_common_version_is_used() {
    let (connection, mut broker) =
        connected(&[(ApiKey::Metadata, 7), (ApiKey::FindCoordinator, 99)]).await;
    assert_eq!(
        connection.version_of::<MetadataRequest>(i16::MAX).unwrap(),
        7
    );
    assert_eq!(connection.version_of::<MetadataRequest>(5).unwrap(), 5);
    assert_eq!(
        connection
            .version_of::<FindCoordinatorRequest>(i16::MAX)
            .unwrap(),
        FindCoordinatorRequest::MAX_VERSION
    );
    let request = MetadataRequest::default();
    let (answer, ()) = tokio::join!(connection.send(&request), async {
        let asked = broker.asked().await;
        assert_eq!(asked.version, 7);
        broker.answer(&asked, &cluster_named("c"), 7).await;
    });
    assert_eq!(answer.unwrap().cluster_id.as_deref(), Some("c"));
}

#[tokio::test]
async fn an_older_broker_answers_in_the_oldest_layout_and_is_asked_again() {
    let (stream, mut broker) = pair();
    let options = options();
    let (connection, ()) = tokio::join!(Connection::over(stream, "old:9092", &options), async {
        let asked = broker.asked().await;
        assert_eq!(asked.version, ApiVersionsRequest::MAX_VERSION);
        let refusal = ApiVersionsResponse {
            error_code: ErrorCode::UnsupportedVersion.code(),
            ..versions(&[(ApiKey::ApiVersions, 2)])
        };
        broker.answer(&asked, &refusal, 0).await;
        let asked = broker.asked().await;
        assert_eq!(asked.version, 2);
        broker
            .answer(&asked, &versions(&[(ApiKey::Metadata, 3)]), 2)
            .await;
    });
    assert_eq!(
        connection.unwrap().versions().range(ApiKey::Metadata),
        Some((0, 3))
    );
}

#[tokio::test]
async fn a_refusal_without_versions_is_asked_again_at_the_oldest() {
    let (stream, mut broker) = pair();
    let options = options();
    let (connection, ()) = tokio::join!(Connection::over(stream, "old:9092", &options), async {
        let asked = broker.asked().await;
        let refusal = ApiVersionsResponse {
            error_code: ErrorCode::UnsupportedVersion.code(),
            ..ApiVersionsResponse::default()
        };
        broker.answer(&asked, &refusal, 0).await;
        let asked = broker.asked().await;
        assert_eq!(asked.version, 0);
        broker
            .answer(&asked, &versions(&[(ApiKey::Metadata, 0)]), 0)
            .await;
    });
    assert!(connection.is_ok());
}

#[tokio::test]
async fn answers_find_their_requests_whatever_their_order() {
    let (connection, mut broker) = connected(&[(ApiKey::Metadata, 9)]).await;
    let request = MetadataRequest::default();
    let (first, second, ()) = tokio::join!(
        connection.send(&request),
        connection.send(&request),
        async {
            let one = broker.asked().await;
            let two = broker.asked().await;
            let name = |asked: &Asked| cluster_named(&asked.correlation_id.to_string());
            broker.answer(&two, &name(&two), 9).await;
            broker.answer(&one, &name(&one), 9).await;
        }
    );
    let (first, second) = (first.unwrap().cluster_id, second.unwrap().cluster_id);
    assert_eq!(
        (first.as_deref(), second.as_deref()),
        (Some("2"), Some("3"))
    );
}

#[tokio::test]
async fn an_api_that_the_broker_lacks_is_named() {
    let (connection, _broker) = connected(&[(ApiKey::Metadata, 9)]).await;
    let error = connection
        .send(&FindCoordinatorRequest::default())
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("FindCoordinator") && text.contains("at all"),
        "{text}"
    );
}

#[tokio::test]
async fn an_answer_that_is_too_large_ends_the_connection() {
    let (connection, mut broker) = connected(&[(ApiKey::Metadata, 9)]).await;
    let request = MetadataRequest::default();
    let (answer, ()) = tokio::join!(connection.send(&request), async {
        broker.asked().await;
        broker.0.write_i32(i32::MAX).await.unwrap();
    });
    let error = answer.unwrap_err();
    assert!(
        matches!(error, ClientError::ResponseTooLarge { limit: 10_000, .. }),
        "{error}"
    );
    assert!(connection.is_closed());
    assert!(connection.send(&request).await.is_err());
}

#[tokio::test]
async fn what_is_no_kafka_broker_is_an_error_not_a_hang() {
    for said in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\0\0\0\x02ab",
        b"\x15\x03\x03\0\x02\x02\x50",
    ] {
        let (stream, mut broker) = pair();
        broker.0.write_all(said).await.unwrap();
        let error = Connection::over(stream, "web:80", &options())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("web:80"), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_decode_is_named() {
    let (connection, mut broker) = connected(&[(ApiKey::Metadata, 9)]).await;
    let request = MetadataRequest::default();
    let (answer, ()) = tokio::join!(connection.send(&request), async {
        let asked = broker.asked().await;
        let garbage = [&asked.correlation_id.to_be_bytes()[..], &[0xff; 40]].concat();
        broker.send(&garbage).await;
    });
    let error = answer.unwrap_err();
    assert!(
        matches!(error, ClientError::Decode { version: 9, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_broker_that_goes_away_answers_all_who_wait() {
    let (connection, mut broker) = connected(&[(ApiKey::Metadata, 9)]).await;
    let request = MetadataRequest::default();
    let (first, second, ()) = tokio::join!(
        connection.send(&request),
        connection.send(&request),
        async {
            broker.asked().await;
            broker.asked().await;
            drop(broker);
        }
    );
    for answer in [first, second] {
        assert!(
            matches!(answer, Err(ClientError::Closed { .. })),
            "{answer:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn no_answer_in_time_ends_the_connection() {
    let (connection, _broker) = connected(&[(ApiKey::Metadata, 9)]).await;
    let error = connection
        .send(&MetadataRequest::default())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::Timeout {
                after_ms: 2_000,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        connection.is_closed(),
        "a late answer would be taken for the next one's"
    );
}

#[tokio::test]
async fn an_answer_nobody_asked_for_ends_the_connection() {
    let (connection, mut broker) = connected(&[(ApiKey::Metadata, 9)]).await;
    let request = MetadataRequest::default();
    let (answer, ()) = tokio::join!(connection.send(&request), async {
        broker.asked().await;
        broker.send(&9_999_i32.to_be_bytes()).await;
    });
    let error = answer.unwrap_err();
    assert!(error.to_string().contains("9999"), "{error}");
}
