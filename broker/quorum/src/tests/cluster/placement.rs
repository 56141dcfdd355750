//! Where new partitions go.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn cluster_with_racks(racks: &[Option<&str>]) -> Image {
    let mut image = Image::default();
    for (id, rack) in (0..).zip(racks) {
        let registration = Registration {
            rack: rack.map(str::to_owned),
            ..registration(id, 1)
        };
        let decision = register_broker(&image, &registration, LostDirectories::Refuse);
        image = image.apply(&decision.records).unwrap();
    }
    image
}

fn placed(image: &Image, id: u8, partitions: i32, factor: i16) -> Vec<Vec<BrokerId>> {
    let request = super::super::new_topic("t", partitions, factor);
    let decision = create_topics(image, context(), &settings(), &[request], false, || {
        Uuid([id; 16])
    });
    decision.result[0].clone().unwrap();
    let image = image.apply(&decision.records).unwrap();
    let topic = image.topic("t").unwrap();
    topic
        .partitions
        .iter()
        .map(|p| p.replicas.clone())
        .collect()
}

/// Most minus least, over brokers, of how often `of` names them.
fn spread(brokers: i32, of: impl Iterator<Item = BrokerId>) -> usize {
    let mut counts: BTreeMap<BrokerId, usize> = (0..brokers).map(|id| (id, 0)).collect();
    for id in of {
        *counts.get_mut(&id).unwrap() += 1;
    }
    counts.values().max().unwrap() - counts.values().min().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn leaders_and_replicas_are_even_within_one_and_racks_alternate(
        racks in 1..5usize, per_rack in 1..6usize, factor in 1..6usize,
        partitions in 1..80i32, id in 2..255u8,
    ) {
        let names = ["a", "b", "c", "d"];
        let of: Vec<Option<&str>> = (0..racks * per_rack)
            .map(|n| (racks > 1).then(|| names[n % racks]))
            .collect();
        let factor = factor.min(of.len());
        let image = cluster_with_racks(&of);
        let brokers = i32::try_from(of.len()).unwrap();
        let placed = placed(&image, id, partitions, i16::try_from(factor).unwrap());
        prop_assert!(spread(brokers, placed.iter().map(|r| r[0])) <= 1, "leaders: {placed:?}");
        prop_assert!(spread(brokers, placed.iter().flatten().copied()) <= 1, "replicas: {placed:?}");
        for replicas in &placed {
            let distinct: BTreeSet<&i32> = replicas.iter().collect();
            prop_assert_eq!(distinct.len(), factor);
            let on: BTreeSet<Option<&str>> = replicas.iter().map(|id| of[usize::try_from(*id).unwrap()]).collect();
            prop_assert_eq!(on.len(), factor.min(racks));
        }
    }

    #[test]
    fn with_unequal_racks_replicas_are_on_as_many_racks_as_there_are(
        sizes in prop::collection::vec(1..5usize, 2..5), factor in 1..5usize, partitions in 1..40i32,
    ) {
        let names = ["a", "b", "c", "d"];
        let of: Vec<Option<&str>> = sizes
            .iter()
            .enumerate()
            .flat_map(|(rack, size)| std::iter::repeat_n(Some(names[rack]), *size))
            .collect();
        let factor = factor.min(of.len());
        let image = cluster_with_racks(&of);
        let placed = placed(&image, 9, partitions, i16::try_from(factor).unwrap());
        for replicas in &placed {
            let distinct: BTreeSet<&i32> = replicas.iter().collect();
            prop_assert_eq!(distinct.len(), factor);
            let on: BTreeSet<Option<&str>> = replicas.iter().map(|id| of[usize::try_from(*id).unwrap()]).collect();
            prop_assert_eq!(on.len(), factor.min(sizes.len()));
        }
        // Within a rack nobody holds more than one more than another.
        for (rack, name) in names.iter().enumerate().take(sizes.len()) {
            let mut counts: BTreeMap<usize, usize> = of.iter().enumerate().filter(|(_, on)| **on == Some(*name)).map(|(id, _)| (id, 0)).collect();
            for id in placed.iter().flatten() {
                if let Some(count) = counts.get_mut(&usize::try_from(*id).unwrap()) {
                    *count += 1;
                }
            }
            let spread = counts.values().max().unwrap() - counts.values().min().unwrap();
            prop_assert!(spread <= 1, "rack {rack}: {counts:?}");
        }
    }
}

#[test]
fn what_one_broker_leads_follows_on_many_others() {
    let image = cluster_with_racks(&[None; 12]);
    let placed = placed(&image, 5, 120, 3);
    for broker in 0..12 {
        let followers: BTreeSet<i32> = placed
            .iter()
            .filter(|replicas| replicas[0] == broker)
            .flat_map(|replicas| replicas[1..].iter().copied())
            .collect();
        assert!(followers.len() >= 8, "{broker}: {followers:?}");
    }
}

#[test]
fn cordoned_fenced_and_stopping_brokers_get_nothing_new() {
    let mut cluster = Cluster::of(5);
    let cordoned = cordon_broker(&cluster.image, 0, true);
    cluster.fold(&cordoned.records);
    cluster.fence(&[1]);
    let stop = Heartbeat {
        want_shutdown: true,
        ..cluster.heartbeat(2)
    };
    cluster.send(&stop).unwrap();
    for replicas in placed(&cluster.image, 7, 20, 2) {
        assert!(
            replicas.iter().all(|id| [3, 4].contains(id)),
            "{replicas:?}"
        );
    }
}
