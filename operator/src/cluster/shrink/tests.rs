//! Each situation, and what is done about it.

use super::*;

fn member(id: i32) -> Member {
    Member {
        id,
        rack: None,
        leaving: false,
        marked: false,
        serves: true,
        cordoned: false,
        voter: id < 3,
        votes: id < 3,
        stopped: false,
        disk: Some((1_000, 500)),
    }
}

fn placed(index: i32, to: &[i32]) -> Placed {
    Placed {
        at: TopicPartition::new("orders", index),
        to: to.into(),
        now: to.into(),
        bytes: 10,
    }
}

fn view(count: i32, partitions: Vec<Placed>) -> View {
    View {
        members: (0..count).map(member).collect(),
        partitions,
        voters: 3,
    }
}

/// One that is on its way out.
fn going(mut view: View, id: i32) -> View {
    let member = &mut view.members[usize::try_from(id).expect("small")];
    (member.leaving, member.marked, member.cordoned) = (true, true, true);
    view
}

fn blocked(decision: Decision) -> String {
    match decision {
        Decision::Blocked(text) => text,
        other => panic!("{other:?} instead of being blocked"),
    }
}

#[test]
fn nobody_goes_unless_the_spec_says_so() {
    let mut view = view(4, vec![placed(0, &[0, 1, 3])]);
    assert_eq!(decide(&view), Decision::Idle);
    // Not one that is down, nor one that somebody cordoned.
    view.members[3].serves = false;
    view.members[2].cordoned = true;
    assert_eq!(decide(&view), Decision::Idle);
}

#[test]
fn one_that_goes_is_marked_emptied_stopped_and_removed() {
    let mut v = view(4, vec![placed(0, &[0, 1, 3]), placed(1, &[0, 1, 2])]);
    v.members[3].leaving = true;
    assert_eq!(decide(&v), Decision::Do(Step::Mark(3)));
    let mut v = going(v, 3);
    let Decision::Do(Step::Move(moves)) = decide(&v) else {
        panic!("{:?}", decide(&v))
    };
    assert_eq!(moves.len(), 1);
    assert_eq!((&*moves[0].to, moves[0].partition), (&[0, 1, 2][..], 0));
    // Under way, and not asked for again.
    v.partitions[0].to = vec![0, 1, 2];
    assert_eq!(
        decide(&v),
        Decision::Wait("broker 3 still holds 1 partition".into())
    );
    v.partitions[0].now = vec![0, 1, 2];
    assert_eq!(decide(&v), Decision::Do(Step::Stop(3)));
    v.members[3].stopped = true;
    assert_eq!(decide(&v), Decision::Wait("broker 3 is stopping".into()));
    v.members[3].serves = false;
    assert_eq!(decide(&v), Decision::Do(Step::Remove(3)));
}

#[test]
fn one_that_was_down_when_it_was_marked_is_told_when_it_is_back() {
    let mut v = going(view(4, vec![]), 3);
    v.members[3].cordoned = false;
    assert_eq!(decide(&v), Decision::Do(Step::Mark(3)));
    // While it is down it holds nothing and can go.
    v.members[3].serves = false;
    assert_eq!(decide(&v), Decision::Do(Step::Stop(3)));
}

#[test]
fn one_that_stays_after_all_is_kept_at_any_moment() {
    let mut v = going(view(4, vec![placed(0, &[0, 1, 3])]), 3);
    for stopped in [false, true] {
        v.members[3].stopped = stopped;
        v.members[3].leaving = false;
        assert_eq!(decide(&v), Decision::Do(Step::Keep(3)));
    }
}

#[test]
fn topics_with_more_replicas_than_brokers_block_and_are_named() {
    let mut v = view(3, vec![placed(0, &[0, 1, 2])]);
    v.voters = 1;
    v.members[2].leaving = true;
    let text = blocked(decide(&v));
    assert!(text.contains("2 brokers would stay"), "{text}");
    assert!(text.contains("orders has 3"), "{text}");
    // With fewer replicas it goes on.
    v.partitions[0] = placed(0, &[0, 2]);
    assert_eq!(decide(&v), Decision::Do(Step::Mark(2)));
}

#[test]
fn disks_that_would_be_too_full_block_and_the_bytes_are_named() {
    let mut v = view(4, vec![placed(0, &[0, 3])]);
    v.members[3].leaving = true;
    // 10 % of each disk stays free.
    v.partitions[0].bytes = 401;
    let text = blocked(decide(&v));
    assert!(
        text.contains("401 bytes more, and has room for 400"),
        "{text}"
    );
    v.partitions[0].bytes = 400;
    assert_eq!(decide(&v), Decision::Do(Step::Mark(3)));
    // Who does not tell is not guessed about.
    v.partitions[0].bytes = i64::MAX;
    for member in &mut v.members {
        member.disk = None;
    }
    assert_eq!(decide(&v), Decision::Do(Step::Mark(3)));
}

#[test]
fn one_that_somebody_cordoned_takes_nothing_and_is_named() {
    let mut v = view(4, vec![placed(0, &[0, 1, 3])]);
    (v.members[2].cordoned, v.members[3].leaving) = (true, true);
    let text = blocked(decide(&v));
    assert!(text.contains("tidemark cluster uncordon 2"), "{text}");
}

#[test]
fn a_voter_is_replaced_before_it_goes() {
    let mut v = going(view(4, vec![]), 1);
    assert_eq!(decide(&v), Decision::Do(Step::Promote(3)));
    v.members[3].votes = true;
    assert_eq!(
        decide(&v),
        Decision::Wait("broker 3 joins the quorum".into())
    );
    v.members[3].voter = true;
    assert_eq!(decide(&v), Decision::Do(Step::Stop(1)));
    // It stays after all: the one that came for it gives its vote back.
    (v.members[1].leaving, v.members[1].marked) = (false, false);
    assert_eq!(decide(&v), Decision::Do(Step::Demote(3)));
}

#[test]
fn a_vote_is_given_only_to_one_that_works() {
    let mut v = going(view(4, vec![]), 1);
    v.members[3].serves = false;
    assert!(blocked(decide(&v)).contains("no other one works"));
}

#[test]
fn few_moves_are_under_way_at_once() {
    let many = (0..100).map(|i| placed(i, &[0, 3])).collect();
    let mut v = going(view(4, many), 3);
    for member in &mut v.members {
        member.disk = Some((1 << 40, 1 << 40));
    }
    let Decision::Do(Step::Move(moves)) = decide(&v) else {
        panic!("{:?}", decide(&v))
    };
    assert_eq!(moves.len(), MOST_MOVES);
    for one in &moves[..MOST_MOVES - 2] {
        let index = usize::try_from(one.partition).expect("small");
        v.partitions[index].to = one.to.clone();
    }
    let Decision::Do(Step::Move(moves)) = decide(&v) else {
        panic!("{:?}", decide(&v))
    };
    assert_eq!(moves.len(), 2);
}

#[test]
fn of_several_that_go_none_takes_what_another_leaves() {
    let mut v = view(5, vec![placed(0, &[3, 4]), placed(1, &[0, 4])]);
    v.members[3].leaving = true;
    v.members[4].leaving = true;
    let v = going(going(v, 3), 4);
    let Decision::Do(Step::Move(moves)) = decide(&v) else {
        panic!("{:?}", decide(&v))
    };
    assert_eq!(moves.len(), 2);
    for one in moves {
        assert!(one.to.iter().all(|id| *id < 3), "{one:?}");
        assert_eq!(one.to.len(), 2);
    }
}
