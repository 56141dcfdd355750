//! What the golden vectors cannot show: refusals, and fields of a later schema.

use crate::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use crate::messages::{
    CreateTopicsRequest, FetchRequest, FetchResponse, MetadataRequest, fetch_request,
};
use crate::*;

#[test]
fn a_tagged_field_of_a_later_schema_survives_a_round_trip_in_order() {
    let mut request = MetadataRequest {
        topics: None,
        ..Default::default()
    };
    request
        .unknown_tagged_fields
        .push(70, Bytes::from_static(b"later"));
    let bytes = encode(&request, 12).unwrap();
    let back: MetadataRequest = decode(bytes.clone(), 12).unwrap();
    assert_eq!(back, request);
    assert_eq!(encode(&back, 12).unwrap(), bytes);
}

#[test]
fn a_field_that_the_version_cannot_carry_is_refused_unless_ignorable() {
    let request = CreateTopicsRequest {
        validate_only: true,
        ..Default::default()
    };
    assert!(encode(&request, 2).is_ok());
    let forgotten = fetch_request::ForgottenTopic {
        topic: "t".into(),
        ..Default::default()
    };
    let request = FetchRequest {
        forgotten_topics_data: vec![forgotten],
        ..Default::default()
    };
    assert_eq!(
        encode(&request, 4),
        Err(EncodeError::Unsupported {
            message: "FetchRequest",
            field: "ForgottenTopicsData",
            version: 4
        })
    );
}

#[test]
fn versions_outside_the_schema_are_errors_both_ways() {
    assert!(matches!(
        decode::<FetchRequest>(Bytes::new(), 3),
        Err(DecodeError::Version { first: 4, .. })
    ));
    assert!(matches!(
        encode(&FetchRequest::default(), 99),
        Err(EncodeError::Version { last: 18, .. })
    ));
}

#[test]
fn many_tiny_elements_are_refused_before_they_are_allocated() {
    // A compact array of a million topics of which each byte could be one.
    let mut input = vec![0xc1, 0x84, 0x3d];
    input.resize(1_000_003, 0);
    assert!(matches!(
        decode::<MetadataRequest>(input.into(), 9),
        Err(DecodeError::Expansion { .. } | DecodeError::Null { .. })
    ));
}

#[test]
fn varints_stop_at_32_bits() {
    let read = |bytes: &'static [u8]| Reader::new(Bytes::from_static(bytes)).unsigned_varint();
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
    assert_eq!(
        read(&[0xff, 0xff, 0xff, 0xff, 0x1f]),
        Err(DecodeError::Varint { at: 0 })
    );
    assert_eq!(read(&[0x80; 5]), Err(DecodeError::Varint { at: 0 }));
}

#[test]
fn shared_fields_stay_in_place() {
    let big = Bytes::from(vec![7; 5000]);
    let mut writer = Writer::new();
    writer.i32(1);
    writer.bytes(&big, false).unwrap();
    writer.i16(2);
    let mut copy = Writer::new();
    copy.i32(1);
    copy.bytes(&big, false).unwrap();
    copy.i16(2);
    let segments = writer.into_segments();
    assert_eq!(segments.len(), 3);
    let segments: Vec<Bytes> = segments
        .into_iter()
        .filter_map(Segment::into_bytes)
        .collect();
    assert_eq!(segments[1].as_ptr(), big.as_ptr());
    assert_eq!(segments.concat(), copy.into_bytes());
}

#[test]
fn announced_records_are_a_hole_of_their_length() {
    for version in [4, 12, FetchResponse::MAX_VERSION] {
        let records = Bytes::from_static(b"whole batches");
        let partition = |records| PartitionData {
            partition_index: 7,
            records: Some(records),
            ..Default::default()
        };
        let response = |records: [Records; 3]| FetchResponse {
            responses: vec![FetchableTopicResponse {
                partitions: records.into_iter().map(partition).collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let here = response([(); 3].map(|()| Records::Here(records.clone())));
        let whole = encode(&here, version).unwrap();
        let mixed = response([
            Records::Elsewhere(records.len()),
            Records::Here(records.clone()),
            Records::Elsewhere(records.len()),
        ]);
        assert_eq!(encode(&mixed, version), Err(EncodeError::Elsewhere));
        let mut writer = Writer::announcing(64);
        mixed.encode(&mut writer, version).unwrap();
        assert_eq!(writer.written(), whole.len());
        let filled: Vec<Bytes> = writer
            .into_segments()
            .into_iter()
            .map(|segment| match segment {
                Segment::Bytes(bytes) => bytes,
                Segment::Elsewhere(len) => records.slice(..len),
            })
            .collect();
        assert_eq!(filled.concat(), whole);
        assert_eq!(decode::<FetchResponse>(whole, version).unwrap(), here);
    }
}

#[test]
fn ids_print_as_kafka_prints_them() {
    let id: Uuid = "-CI2jimis_V5qI21BAn2VQ".parse().unwrap();
    assert_eq!(id.to_string(), "-CI2jimis_V5qI21BAn2VQ");
    assert!("short".parse::<Uuid>().is_err());
}

#[test]
fn error_codes_of_a_later_kafka_are_unknown_server_errors() {
    assert_eq!(ErrorCode::from_code(3), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(ErrorCode::from_code(31_000), ErrorCode::UnknownServerError);
    assert!(ErrorCode::NotLeaderOrFollower.is_retriable());
    assert_eq!(ApiKey::InitProducerId.stable_versions().1, 5);
}
