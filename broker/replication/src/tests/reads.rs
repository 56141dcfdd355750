//! What readers get.

use super::*;
use crate::{ConsumerFetch, Diverging, EpochEnd, Rack, Refusal, preferred_read_replica};

fn caught_up(replica: &mut Replica) {
    for broker in [2, 3] {
        replica.follower_fetch(0, &fetch(broker, 10, 2, 10), &mut Vec::new());
    }
    assert_eq!(replica.log().high_watermark, 10);
}

#[test]
fn readers_get_what_is_committed() {
    let leader = leader();
    let read = |offset| leader.consumer_fetch(offset, None, None);
    assert_eq!(read(0), Ok(ConsumerFetch::Read { to: 4 }));
    assert_eq!(read(4), Ok(ConsumerFetch::Empty));
    assert_eq!(
        read(9),
        Ok(ConsumerFetch::Empty),
        "another leader showed it"
    );
    assert_eq!(read(10), Ok(ConsumerFetch::Empty));
    assert_eq!(read(11), Ok(ConsumerFetch::OutOfRange));
}

#[test]
fn a_follower_cannot_tell_what_is_committed_beyond_what_it_knows() {
    let mut replica = replica(log());
    step(&mut replica, Event::Image(view(2, 3)));
    let read = |offset| replica.consumer_fetch(offset, Some(3), None);
    assert_eq!(read(0), Ok(ConsumerFetch::Read { to: 4 }));
    assert_eq!(read(4), Ok(ConsumerFetch::Empty));
    assert_eq!(read(5), Err(Refusal::OffsetNotAvailable));
    assert_eq!(replica.latest_offset(None), Err(Refusal::NotLeader));
}

#[test]
fn the_latest_offset_of_a_new_leader_waits_for_what_it_began_with() {
    let mut leader = leader();
    assert_eq!(leader.latest_offset(None), Err(Refusal::OffsetNotAvailable));
    caught_up(&mut leader);
    assert_eq!(leader.latest_offset(None), Ok(10));
    assert_eq!(leader.latest_offset(Some(2)), Err(Refusal::FencedEpoch));
    assert_eq!(leader.latest_offset(Some(4)), Err(Refusal::UnknownEpoch));
}

#[test]
fn epochs_end_where_the_next_began() {
    let leader = leader();
    let end = |epoch| leader.epoch_end(Some(3), epoch).unwrap();
    let ends = |epoch, end_offset| Some(EpochEnd { epoch, end_offset });
    assert_eq!(end(0), ends(0, 0));
    assert_eq!(end(1), ends(1, 6));
    assert_eq!(end(2), ends(2, 10));
    assert_eq!(end(3), ends(3, 10));
    assert_eq!(end(4), None);
    let at = Diverging {
        epoch: 1,
        end_offset: 6,
    };
    assert_eq!(
        leader.consumer_fetch(8, None, Some(1)),
        Ok(ConsumerFetch::Diverging(at))
    );
}

#[test]
fn consumers_read_in_their_rack() {
    let racks = [(1, "a"), (2, "b"), (3, "b")].map(|(broker, rack)| Rack {
        broker,
        rack: Some(rack),
    });
    let from = |rack: &str, ends: &[(i32, i64)]| {
        preferred_read_replica(1, rack, ends.iter().copied(), &racks)
    };
    assert_eq!(from("a", &[(2, 9), (3, 9)]), None, "the leader itself");
    assert_eq!(from("b", &[(2, 8), (3, 9)]), Some(3), "who has most");
    assert_eq!(from("b", &[(2, 9), (3, 9)]), Some(2));
    assert_eq!(from("b", &[]), None);
    assert_eq!(from("c", &[(2, 8), (3, 9)]), None);

    let mut leader = leader();
    assert_eq!(
        leader.preferred_read_replica("b", 3, &racks),
        None,
        "unknown"
    );
    caught_up(&mut leader);
    assert_eq!(leader.preferred_read_replica("b", 3, &racks), Some(2));
    append(&mut leader, 12);
    leader.follower_fetch(0, &fetch(3, 12, 3, 11), &mut Vec::new());
    assert_eq!(leader.preferred_read_replica("b", 11, &racks), Some(3));
    let event = next(&leader, |view| broker(view, 2).fenced = true);
    step(&mut leader, event);
    assert_eq!(leader.preferred_read_replica("b", 11, &racks), None);
}
