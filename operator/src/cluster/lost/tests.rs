//! When a disk is given up.

use super::super::roller::Partition;
use super::*;

fn broker(id: i32, pod: Pod) -> Broker {
    Broker {
        id,
        voter: true,
        pod,
        ready_since_ms: None,
        template: "t".into(),
        life: None,
        leased: false,
        cut_off: false,
    }
}

fn empty() -> Pod {
    Pod::Crashing {
        text: "back-off; not formatted, though this broker was in the cluster: its disk is lost"
            .into(),
        since_ms: 1_000,
    }
}

fn image(isr: &[i32]) -> Image {
    Image {
        controller: Some(0),
        partitions: vec![Partition {
            name: "orders-0".into(),
            replicas: vec![0, 1, 2],
            isr: isr.to_vec(),
            min_isr: 2,
        }],
        offline: 0,
    }
}

const NOBODY: Asked = Asked {
    broker: None,
    after_ms: None,
};
const ASKED: Asked = Asked {
    broker: Some(1),
    after_ms: None,
};

fn of(pods: [Pod; 3], isr: &[i32], asked: Asked, now_ms: i64) -> Decision {
    let brokers: Vec<Broker> = (0..).zip(pods).map(|(id, pod)| broker(id, pod)).collect();
    decide(&brokers, Some(&image(isr)), asked, now_ms)
}

fn waits(decision: &Decision, says: &str) -> bool {
    matches!(decision, Decision::Wait(text) if text.contains(says))
}

#[test]
fn a_disk_is_replaced_when_it_is_lost_spare_and_asked_for() {
    let pods = || [Pod::Ready, empty(), Pod::Ready];
    assert_eq!(of(pods(), &[0, 2], ASKED, 2_000), Decision::Replace(1));
    let waiting = of(pods(), &[0, 2], NOBODY, 2_000);
    assert!(
        waits(&waiting, "tidemark.dev/replace-disk=1"),
        "{waiting:?}"
    );
    let other = Asked {
        broker: Some(2),
        ..NOBODY
    };
    assert!(waits(&of(pods(), &[0, 2], other, 2_000), "replace-disk=1"));
    let all = [Pod::Ready, Pod::Ready, Pod::Ready];
    assert_eq!(of(all, &[0, 2], ASKED, 2_000), Decision::Nothing);
}

#[test]
fn without_being_asked_it_takes_its_time() {
    let later = Asked {
        broker: None,
        after_ms: Some(60_000),
    };
    let at = |now_ms| of([Pod::Ready, empty(), Pod::Ready], &[0, 2], later, now_ms);
    assert!(waits(&at(60_999), "when it stays so"));
    assert_eq!(at(61_000), Decision::Replace(1));
}

#[test]
fn what_may_be_the_only_copy_is_never_given_up() {
    let pods = || [Pod::Ready, empty(), Pod::Ready];
    for isr in [&[1][..], &[]] {
        let decision = of(pods(), isr, ASKED, i64::MAX);
        assert!(
            waits(&decision, "nobody else in sync: orders-0"),
            "{decision:?}"
        );
    }
    let brokers: Vec<Broker> = (0..).zip(pods()).map(|(id, pod)| broker(id, pod)).collect();
    assert!(waits(&decide(&brokers, None, ASKED, 0), "cannot be asked"));
    let unready = || Pod::Unready { since_ms: 0 };
    let decision = of([unready(), empty(), Pod::Ready], &[0, 2], ASKED, 0);
    assert!(waits(&decision, "broker 0 is not ready"), "{decision:?}");
    // Two at once: neither.
    let decision = of([Pod::Ready, empty(), empty()], &[0], ASKED, 0);
    assert!(waits(&decision, "broker 2 is not ready"), "{decision:?}");
}

#[test]
fn a_quorum_keeps_its_majority() {
    let mut brokers = vec![broker(0, Pod::Ready), broker(1, empty())];
    let decision = decide(&brokers, Some(&image(&[0])), ASKED, 0);
    assert!(waits(&decision, "no majority without it"), "{decision:?}");
    brokers[0].voter = false;
    brokers[1].voter = false;
    let decision = decide(&brokers, Some(&image(&[0])), ASKED, 0);
    assert_eq!(decision, Decision::Replace(1));
}

#[test]
fn what_is_no_lost_disk_is_none() {
    let mut failed = broker(1, Pod::Unready { since_ms: 0 });
    failed.life = Some(Life::DirectoryFailed("EIO".into()));
    assert_eq!(evidence(&failed), Some(("EIO".into(), 0)));
    let away = Pod::Pending {
        cause: Cause::Volume,
        text: "no node".into(),
        since_ms: 5,
    };
    assert_eq!(evidence(&broker(1, away)), Some(("no node".into(), 5)));
    let crashing = Pod::Crashing {
        text: "bad setting".into(),
        since_ms: 0,
    };
    let starting = Pod::Pending {
        cause: Cause::Starting,
        text: String::new(),
        since_ms: 0,
    };
    for pod in [
        crashing,
        starting,
        Pod::Absent,
        Pod::Unready { since_ms: 0 },
    ] {
        assert_eq!(evidence(&broker(1, pod.clone())), None, "{pod:?}");
    }
}
