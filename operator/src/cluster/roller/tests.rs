//! Each row of the table: what a broker is, and what is done about it.

use super::*;

const NOW: i64 = 100 * 60_000;

fn ready(id: i32, template: &str) -> Broker {
    Broker {
        id,
        voter: true,
        pod: Pod::Ready,
        ready_since_ms: Some(0),
        template: template.into(),
        life: Some(Life::Running),
        leased: false,
        cut_off: false,
    }
}

fn with(mut broker: Broker, pod: Pod, life: Option<Life>) -> Broker {
    (broker.pod, broker.life) = (pod, life);
    broker
}

fn pending(cause: Cause, for_ms: i64) -> Pod {
    Pod::Pending {
        cause,
        text: "0/3 nodes are available".into(),
        since_ms: NOW - for_ms,
    }
}

fn crashing() -> Pod {
    Pod::Crashing {
        text: "back-off 40s restarting failed container".into(),
        since_ms: NOW - 1_000,
    }
}

fn unready(for_ms: i64) -> Pod {
    Pod::Unready {
        since_ms: NOW - for_ms,
    }
}

fn plan() -> Plan {
    Plan {
        targets: (0..3).map(|id| (id, "new".to_owned())).collect(),
        leaving: BTreeSet::new(),
        demoted: BTreeSet::new(),
        paused: false,
        mode: DisruptionMode::Automatic,
        approved: false,
        by_operator: false,
        closed: None,
        new_image: false,
        unreplicated: Unreplicated::Proceed,
    }
}

fn partition(replicas: &[i32], isr: &[i32], min_isr: usize) -> Partition {
    Partition {
        name: "orders-0".into(),
        replicas: replicas.into(),
        isr: isr.into(),
        min_isr,
    }
}

fn image(partitions: Vec<Partition>) -> Image {
    Image {
        controller: Some(1),
        partitions,
        offline: 0,
    }
}

fn healthy() -> Image {
    image(vec![partition(&[0, 1, 2], &[0, 1, 2], 2)])
}

/// Brokers 0 and 1 on the old template, and another one.
fn beside(other: Broker) -> Vec<Broker> {
    vec![ready(0, "old"), ready(1, "old"), other]
}

fn waits(decision: Decision) -> Reason {
    match decision {
        Decision::Wait(reason, text) => {
            assert!(!text.is_empty());
            reason
        }
        other => panic!("{other:?} instead of waiting"),
    }
}

fn restarts(id: i32) -> Decision {
    Decision::Do(Step::Restart {
        broker: id,
        unavoidable: vec![],
    })
}

#[test]
fn all_as_it_should_be_is_left_alone() {
    let brokers: Vec<Broker> = (0..3).map(|id| ready(id, "new")).collect();
    assert_eq!(
        decide(&brokers, Some(&healthy()), &plan(), NOW),
        Decision::Idle
    );
    // Whether or not they can be asked.
    assert_eq!(decide(&brokers, None, &plan(), NOW), Decision::Idle);
}

#[test]
fn a_missing_pod_is_kubernetes_own_to_make() {
    let other = with(ready(2, ""), Pod::Absent, None);
    let decision = decide(&beside(other), Some(&healthy()), &plan(), NOW);
    assert_eq!(waits(decision), Reason::PodMissing);
}

#[test]
fn what_is_down_on_an_old_template_is_repaired_at_once() {
    for pod in [
        crashing(),
        pending(Cause::ImagePull, 1),
        pending(Cause::Unschedulable, PENDING_MS + 1),
    ] {
        let other = with(ready(2, "old"), pod.clone(), None);
        let mut plan = plan();
        let brokers = beside(other);
        // An approval is for what works, and the others need not answer.
        plan.mode = DisruptionMode::Approval;
        assert_eq!(
            decide(&brokers, None, &plan, NOW),
            Decision::Do(Step::Repair(2)),
            "{pod:?}"
        );
        plan.paused = true;
        assert!(matches!(
            decide(&brokers, None, &plan, NOW),
            Decision::Wait(..)
        ));
    }
}

#[test]
fn a_pod_that_only_just_waits_is_given_time() {
    let other = with(ready(2, "old"), pending(Cause::Unschedulable, 1), None);
    let decision = decide(&beside(other), Some(&healthy()), &plan(), NOW);
    assert_eq!(waits(decision), Reason::Unschedulable);
}

#[test]
fn what_fails_on_the_template_it_should_have_halts_the_roll() {
    for (pod, reason) in [
        (crashing(), Reason::BrokerFailing),
        (pending(Cause::ImagePull, 1), Reason::ImagePull),
        (
            pending(Cause::Unschedulable, PENDING_MS + 1),
            Reason::Unschedulable,
        ),
    ] {
        let other = with(ready(2, "new"), pod, None);
        let decision = decide(&beside(other), Some(&healthy()), &plan(), NOW);
        let Decision::Wait(found, text) = decision else {
            panic!("{decision:?}")
        };
        assert_eq!(found, reason);
        assert!(text.contains("broker 2: "), "{text}");
    }
}

#[test]
fn a_volume_that_cannot_be_had_is_not_mended_by_a_template() {
    let other = with(
        ready(2, "old"),
        pending(Cause::Volume, PENDING_MS + 1),
        None,
    );
    let decision = decide(&beside(other), Some(&healthy()), &plan(), NOW);
    assert_eq!(waits(decision), Reason::DiskUnreachable);
}

#[test]
fn a_broker_that_runs_and_is_not_ready_is_waited_for() {
    for (life, for_ms, reason) in [
        (
            Some(Life::DirectoryFailed("EIO".into())),
            1,
            Reason::DirectoryFailed,
        ),
        (
            Some(Life::Recovering {
                done: 312,
                total: 4_000,
            }),
            HALT_MS + 1,
            Reason::LogRecovery,
        ),
        (
            Some(Life::Behind("catching up".into())),
            HALT_MS + 1,
            Reason::IsrCatchUp,
        ),
        (Some(Life::Running), 1, Reason::Starting),
        (None, HALT_MS + 1, Reason::RollHalted),
    ] {
        for template in ["old", "new"] {
            let other = with(ready(2, template), unready(for_ms), life.clone());
            let decision = decide(&beside(other), Some(&healthy()), &plan(), NOW);
            assert_eq!(waits(decision), reason, "{life:?}");
        }
    }
}

#[test]
fn a_full_disk_is_no_reason_to_restart_anybody_and_holds_up_every_restart() {
    let full = |serves| {
        Some(Life::DiskFull {
            text: "the disk is full: orders-2-data grows to 2Gi".into(),
            serves,
        })
    };
    for (pod, serves) in [(Pod::Ready, true), (unready(HALT_MS + 1), false)] {
        for template in ["old", "new"] {
            let other = with(ready(2, template), pod.clone(), full(serves));
            let decision = decide(&beside(other), Some(&healthy()), &plan(), NOW);
            let Decision::Wait(Reason::DiskFull, text) = decision else {
                panic!("{decision:?}")
            };
            assert_eq!(
                text,
                "broker 2: the disk is full: orders-2-data grows to 2Gi"
            );
        }
        // Nothing is to be restarted, and it is told all the same.
        let mut brokers: Vec<Broker> = (0..3).map(|id| ready(id, "new")).collect();
        brokers[1] = with(ready(1, "new"), pod, full(serves));
        let decision = decide(&brokers, Some(&healthy()), &plan(), NOW);
        assert_eq!(waits(decision), Reason::DiskFull);
        // One that leaves takes its data elsewhere, and nobody waits for it.
        let plan = Plan {
            leaving: [1].into(),
            ..plan()
        };
        assert_eq!(
            decide(&brokers, Some(&healthy()), &plan, NOW),
            Decision::Idle
        );
    }
}

#[test]
fn who_may_not_restart_does_not() {
    let brokers = beside(ready(2, "new"));
    let of = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan();
        change(&mut plan);
        decide(&brokers, Some(&healthy()), &plan, NOW)
    };
    assert_eq!(of(&|_| ()), restarts(0));
    assert_eq!(waits(of(&|p| p.paused = true)), Reason::Paused);
    assert_eq!(
        waits(of(&|p| p.mode = DisruptionMode::Never)),
        Reason::DisruptionsOff
    );
    assert_eq!(
        waits(of(&|p| p.by_operator = true)),
        Reason::AwaitingApproval
    );
    assert_eq!(
        of(&|p| (p.by_operator, p.approved) = (true, true)),
        restarts(0)
    );
    assert_eq!(
        waits(of(&|p| p.mode = DisruptionMode::Approval)),
        Reason::AwaitingApproval
    );
    assert_eq!(
        of(&|p| (p.mode, p.approved) = (DisruptionMode::Approval, true)),
        restarts(0)
    );
}

#[test]
fn outside_of_its_windows_what_works_is_left_alone_and_what_is_down_is_not() {
    let plan = Plan {
        closed: Some("night opens on Monday at 02:00 UTC".into()),
        approved: true,
        ..plan()
    };
    let of = |other: Broker| decide(&beside(other), Some(&healthy()), &plan, NOW);
    let Decision::Wait(Reason::OutOfWindow, text) = of(ready(2, "new")) else {
        panic!("it does not wait")
    };
    assert_eq!(text, "2 restarts wait: night opens on Monday at 02:00 UTC");
    // A broker that was stopped before it closed gives back its leave, and one that is down is mended.
    let mut back = ready(2, "new");
    back.leased = true;
    assert_eq!(of(back), Decision::Do(Step::EndLease(2)));
    let down = with(ready(2, "old"), crashing(), None);
    assert_eq!(of(down), Decision::Do(Step::Repair(2)));
    // What awaits approval says so first.
    let unapproved = Plan {
        mode: DisruptionMode::Approval,
        approved: false,
        ..plan.clone()
    };
    let decision = decide(&beside(ready(2, "new")), Some(&healthy()), &unapproved, NOW);
    assert_eq!(waits(decision), Reason::AwaitingApproval);
}

#[test]
fn the_first_broker_on_another_image_proves_itself_before_the_next() {
    let new = |since_ms| Broker {
        ready_since_ms: Some(since_ms),
        ..ready(2, "new")
    };
    let of = |other: Broker, new_image| {
        let plan = Plan {
            new_image,
            ..plan()
        };
        decide(&beside(other), Some(&healthy()), &plan, NOW)
    };
    let decision = of(new(NOW - CANARY_MS + 1), true);
    let Decision::Wait(Reason::Canary, text) = decision else {
        panic!("{decision:?}")
    };
    assert!(text.contains("broker 2 is the first"), "{text}");
    assert_eq!(of(new(NOW - CANARY_MS), true), restarts(0));
    // Another change needs no proof, and neither does the first of all.
    assert_eq!(of(new(NOW), false), restarts(0));
    assert_eq!(of(ready(2, "old"), true), restarts(0));
    // Where it is proved once, the others follow one by one.
    let brokers = [new(NOW - 1), ready(0, "new"), ready(1, "old")];
    let plan = Plan {
        new_image: true,
        ..plan()
    };
    assert_eq!(decide(&brokers, Some(&healthy()), &plan, NOW), restarts(1));
}

#[test]
fn brokers_that_cannot_be_asked_are_not_restarted() {
    let decision = decide(&beside(ready(2, "new")), None, &plan(), NOW);
    assert_eq!(waits(decision), Reason::BrokersUnreachable);
}

#[test]
fn without_any_broker_all_that_do_not_run_start_anew() {
    let down = |id, for_ms| with(ready(id, "old"), unready(for_ms), None);
    let brokers = |for_ms| vec![down(0, for_ms), down(1, for_ms), down(2, for_ms)];
    let long = brokers(COLD_START_MS + 1);
    assert_eq!(
        decide(&long, None, &plan(), NOW),
        Decision::Do(Step::ColdStart(vec![0, 1, 2]))
    );
    // Not while a quorum answers, nor before its time, nor with one that is ready.
    assert!(matches!(
        decide(&long, Some(&healthy()), &plan(), NOW),
        Decision::Wait(..)
    ));
    assert_eq!(
        waits(decide(&brokers(1), None, &plan(), NOW)),
        Reason::ColdStart
    );
    let mut one = long.clone();
    one[1] = ready(1, "old");
    assert!(matches!(
        decide(&one, None, &plan(), NOW),
        Decision::Wait(..)
    ));
    // One that opens its logs is let be.
    let mut busy = long;
    busy[2].life = Some(Life::Recovering { done: 1, total: 2 });
    assert_eq!(
        decide(&busy, None, &plan(), NOW),
        Decision::Do(Step::ColdStart(vec![0, 1]))
    );
}

#[test]
fn the_active_controller_is_last() {
    let decision = |zero: &str| {
        let brokers = vec![ready(0, zero), ready(1, "old"), ready(2, "new")];
        decide(&brokers, Some(&healthy()), &plan(), NOW)
    };
    assert_eq!(decision("old"), restarts(0));
    assert_eq!(decision("new"), restarts(1));
    let brokers = beside(ready(2, "old"));
    assert_eq!(order(&brokers, &plan(), Some(1)), [0, 2, 1]);
}

#[test]
fn a_partition_keeps_its_minimum() {
    let brokers = beside(ready(2, "old"));
    let of = |partitions| decide(&brokers, Some(&image(partitions)), &plan(), NOW);
    // 2 is out of sync: of the others none may go, and 2 itself may.
    let decision = of(vec![partition(&[0, 1, 2], &[0, 1], 2)]);
    assert_eq!(decision, restarts(2));
    // In sync are fewer than the minimum: 2 may be the one that catches up.
    let decision = of(vec![partition(&[0, 1, 2], &[0], 2)]);
    let Decision::Wait(Reason::MinIsr, text) = decision else {
        panic!("{decision:?}")
    };
    assert!(text.contains("orders-0"), "{text}");
}

#[test]
fn what_has_no_other_replica_goes_offline_or_blocks() {
    let brokers = beside(ready(2, "new"));
    let lonely = image(vec![partition(&[0], &[0], 1)]);
    let mut plan = plan();
    assert_eq!(
        decide(&brokers, Some(&lonely), &plan, NOW),
        Decision::Do(Step::Restart {
            broker: 0,
            unavoidable: vec!["orders-0".into()],
        })
    );
    assert_eq!(unavoidable(&lonely, 0), ["orders-0"]);
    plan.unreplicated = Unreplicated::Block;
    let decision = decide(&brokers, Some(&lonely), &plan, NOW);
    assert_eq!(waits(decision), Reason::Unreplicated);
    // Two replicas of which both are needed: only while both are in sync.
    plan.unreplicated = Unreplicated::Proceed;
    let half = image(vec![partition(&[0, 2], &[2], 2)]);
    assert_eq!(
        waits(decide(&brokers, Some(&half), &plan, NOW)),
        Reason::MinIsr
    );
}

#[test]
fn a_quorum_keeps_its_majority() {
    // Broker 2 does not vote: of two voters none may go.
    let mut brokers = beside(ready(2, "new"));
    brokers[2].voter = false;
    let decision = decide(&brokers, Some(&healthy()), &plan(), NOW);
    assert_eq!(waits(decision), Reason::Quorum);
}

#[test]
fn leave_is_given_back_before_the_next_is_asked() {
    let mut brokers = beside(ready(2, "new"));
    brokers[2].leased = true;
    let image = healthy();
    assert_eq!(
        decide(&brokers, Some(&image), &plan(), NOW),
        Decision::Do(Step::EndLease(2))
    );
    // So does one that is to be restarted again: its turn may not be next.
    brokers[2].template = "old".into();
    assert_eq!(
        decide(&brokers, Some(&image), &plan(), NOW),
        Decision::Do(Step::EndLease(2))
    );
    // While it is away nobody else is stopped.
    brokers[2].pod = unready(1);
    assert_eq!(
        waits(decide(&brokers, Some(&image), &plan(), NOW)),
        Reason::Starting
    );
}

#[test]
fn nobody_waits_for_one_that_leaves_and_it_is_not_restarted() {
    let mut plan = plan();
    plan.leaving = [2].into();
    let leaves = with(ready(2, "old"), crashing(), None);
    let brokers = vec![ready(0, "new"), ready(1, "new"), leaves, ready(3, "new")];
    let image = image(vec![partition(&[0, 1], &[0, 1], 1)]);
    assert_eq!(decide(&brokers, Some(&image), &plan, NOW), Decision::Idle);
    // What its going does to the quorum counts all the same.
    let mut brokers = brokers;
    brokers[0].template = "old".into();
    let decision = decide(&brokers, Some(&image), &plan, NOW);
    assert_eq!(waits(decision), Reason::Quorum);
    brokers[2].voter = false;
    assert_eq!(decide(&brokers, Some(&image), &plan, NOW), restarts(0));
}

#[test]
fn a_voter_that_lost_its_vote_and_runs_on_is_started_as_one_that_follows() {
    let unready = unready(1_000);
    let mut cut_off = with(ready(2, "old"), unready, Some(Life::Running));
    let brokers = |of: &Broker| vec![ready(0, "new"), ready(1, "new"), of.clone()];
    let decision = decide(&brokers(&cut_off), Some(&healthy()), &plan(), NOW);
    assert_eq!(waits(decision), Reason::Starting);
    cut_off.cut_off = true;
    assert_eq!(
        decide(&brokers(&cut_off), Some(&healthy()), &plan(), NOW),
        Decision::Do(Step::Repair(2))
    );
}

#[test]
fn a_voter_that_gives_its_vote_back_first_does_not_need_the_majority() {
    let brokers = vec![ready(0, "new"), ready(1, "old")];
    let image = image(vec![partition(&[0, 1], &[0, 1], 1)]);
    let mut plan = plan();
    assert_eq!(
        waits(decide(&brokers, Some(&image), &plan, NOW)),
        Reason::Quorum
    );
    plan.demoted = [1].into();
    assert_eq!(decide(&brokers, Some(&image), &plan, NOW), restarts(1));
}
