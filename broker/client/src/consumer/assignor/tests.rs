use super::*;

fn member(id: &str, topics: &[&str]) -> Member {
    Member {
        member_id: id.to_owned(),
        topics: topics.iter().map(|t| (*t).to_owned()).collect(),
        generation: -1,
        ..Member::default()
    }
}

fn counts(topics: &[(&str, i32)]) -> BTreeMap<String, i32> {
    topics.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect()
}

fn short(assignment: &Assignment) -> String {
    assignment
        .iter()
        .map(|(member, held)| {
            let held: Vec<String> = held.iter().map(ToString::to_string).collect();
            format!("{member}: {}", held.join(" "))
        })
        .collect::<Vec<_>>()
        .join("; ")
}

fn all_once(assignment: &Assignment) -> usize {
    let mut seen = BTreeSet::new();
    for partition in assignment.values().flatten() {
        assert!(seen.insert(partition.clone()), "{partition} given twice");
    }
    seen.len()
}

#[test]
fn range_gives_the_first_members_the_remainder() {
    let members = [member("b", &["t", "u"]), member("a", &["t", "u"])];
    let assignment = Assignor::Range.assign(&members, &counts(&[("t", 3), ("u", 3)]));
    assert_eq!(short(&assignment), "a: t-0 t-1 u-0 u-1; b: t-2 u-2");
}

#[test]
fn range_leaves_surplus_members_idle() {
    let members = [
        member("a", &["t"]),
        member("b", &["t"]),
        member("c", &["t"]),
    ];
    let assignment = Assignor::Range.assign(&members, &counts(&[("t", 2)]));
    assert_eq!(short(&assignment), "a: t-0; b: t-1; c: ");
}

#[test]
fn round_robin_deals_over_topics() {
    let members = [member("a", &["t", "u"]), member("b", &["t", "u"])];
    let assignment = Assignor::RoundRobin.assign(&members, &counts(&[("t", 3), ("u", 3)]));
    assert_eq!(short(&assignment), "a: t-0 t-2 u-1; b: t-1 u-0 u-2");
}

#[test]
fn round_robin_skips_members_without_the_topic() {
    let members = [
        member("a", &["t"]),
        member("b", &["t", "u"]),
        member("c", &["t", "u", "v"]),
    ];
    let assignment =
        Assignor::RoundRobin.assign(&members, &counts(&[("t", 1), ("u", 2), ("v", 3)]));
    assert_eq!(short(&assignment), "a: t-0; b: u-0; c: u-1 v-0 v-1 v-2");
}

#[test]
fn static_members_keep_their_place_whatever_their_id() {
    let mut first = member("zzz", &["t"]);
    first.instance_id = Some("one".to_owned());
    let members = [member("aaa", &["t"]), first];
    let assignment = Assignor::Range.assign(&members, &counts(&[("t", 3)]));
    assert_eq!(short(&assignment), "aaa: t-2; zzz: t-0 t-1");
}

#[test]
fn no_topics_means_empty_assignments_for_all() {
    for assignor in [
        Assignor::Range,
        Assignor::RoundRobin,
        Assignor::CooperativeSticky,
    ] {
        let assignment = assignor.assign(&[member("a", &["gone"])], &BTreeMap::new());
        assert_eq!(short(&assignment), "a: ");
    }
}

#[test]
fn sticky_keeps_what_is_owned_and_withholds_what_moves() {
    let mut a = member("a", &["t"]);
    a.owned = (0..4).map(|p| TopicPartition::new("t", p)).collect();
    a.generation = 1;
    let b = member("b", &["t"]);
    let first = Assignor::CooperativeSticky.assign(&[a.clone(), b.clone()], &counts(&[("t", 4)]));
    // b gets nothing yet: what moves to it is still a's until a has joined without it.
    assert_eq!(short(&first), "a: t-0 t-1; b: ");
    a.owned = first["a"].clone();
    a.generation = 2;
    let second = Assignor::CooperativeSticky.assign(&[a, b], &counts(&[("t", 4)]));
    assert_eq!(short(&second), "a: t-0 t-1; b: t-2 t-3");
}

#[test]
fn sticky_believes_the_newer_generation() {
    let mut old = member("old", &["t"]);
    old.owned = vec![TopicPartition::new("t", 0)];
    old.generation = 3;
    let mut new = member("new", &["t"]);
    new.owned = vec![TopicPartition::new("t", 0)];
    new.generation = 4;
    let assignment = Assignor::CooperativeSticky.assign(&[old, new], &counts(&[("t", 1)]));
    assert_eq!(short(&assignment), "new: t-0; old: ");
}

#[test]
fn sticky_ignores_partitions_that_are_gone() {
    let mut a = member("a", &["t"]);
    a.owned = vec![TopicPartition::new("t", 9), TopicPartition::new("gone", 0)];
    let assignment = Assignor::CooperativeSticky.assign(&[a], &counts(&[("t", 2)]));
    assert_eq!(short(&assignment), "a: t-0 t-1");
}

#[test]
fn every_assignor_gives_each_partition_once_and_evenly() {
    for members_count in 1..8 {
        for partitions in 0..20 {
            let members: Vec<Member> = (0..members_count)
                .map(|i| member(&format!("m{i}"), &["t"]))
                .collect();
            for assignor in [
                Assignor::Range,
                Assignor::RoundRobin,
                Assignor::CooperativeSticky,
            ] {
                let assignment = assignor.assign(&members, &counts(&[("t", partitions)]));
                assert_eq!(all_once(&assignment), partitions as usize);
                let most = assignment.values().map(Vec::len).max().unwrap();
                let least = assignment.values().map(Vec::len).min().unwrap();
                assert!(most - least <= 1, "{assignor:?}: {}", short(&assignment));
            }
        }
    }
}

#[test]
fn names_go_both_ways() {
    for assignor in [
        Assignor::Range,
        Assignor::RoundRobin,
        Assignor::CooperativeSticky,
    ] {
        assert_eq!(Assignor::from_name(assignor.name()), Some(assignor));
    }
    assert_eq!(Assignor::from_name("uniform"), None);
}
