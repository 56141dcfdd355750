//! Random histories of a cluster whose spec changes its mind, while brokers go down and the operator
//! does its steps by halves: nothing that is held is ever stopped, no partition loses a replica, the
//! quorum never has fewer voters than it should, and in the end there are the brokers that the spec
//! asks for.

use super::*;
use tidemark_env::random::Random;

const TROUBLE: usize = 60;
const PEACE: usize = 600;

struct World {
    view: View,
    gone: BTreeSet<i32>,
    stops: usize,
}

impl World {
    fn new(random: &mut Random) -> World {
        let count = 4 + i32::try_from(random.below(3)).expect("small");
        let member = |id| Member {
            id,
            rack: (id % 2 == 0).then(|| "a".to_owned()),
            leaving: false,
            marked: false,
            serves: true,
            cordoned: false,
            voter: id < 3,
            votes: id < 3,
            stopped: false,
            disk: Some((1 << 30, 1 << 29)),
        };
        let placed = |index: i32, random: &mut Random| {
            let replicas = 1 + i32::try_from(random.below(3)).expect("small");
            let to: Vec<i32> = (0..replicas).map(|r| (index + r) % count).collect();
            Placed {
                at: TopicPartition::new("t", index),
                now: to.clone(),
                to,
                bytes: 1 << 10,
            }
        };
        World {
            view: View {
                members: (0..count).map(member).collect(),
                partitions: (0..40).map(|index| placed(index, random)).collect(),
                voters: 3,
            },
            gone: BTreeSet::new(),
            stops: 0,
        }
    }

    /// The spec names others that go; three stay at least.
    fn change_of_mind(&mut self, random: &mut Random) {
        let here = self.view.members.len();
        let most = here.saturating_sub(3);
        let go = random.index(most + 1);
        let mut ids: Vec<usize> = (0..here).collect();
        for at in 0..here {
            ids.swap(at, random.index(here));
        }
        for (at, index) in ids.into_iter().enumerate() {
            self.view.members[index].leaving = at < go;
        }
    }

    fn member(&mut self, id: i32) -> &mut Member {
        let mut members = self.view.members.iter_mut();
        members
            .find(|m| m.id == id)
            .expect("it names brokers that there are")
    }

    /// What brokers, the roller and Kubernetes do by themselves.
    fn goes_on(&mut self, random: &mut Random) {
        for partition in &mut self.view.partitions {
            if partition.moves() && random.one_in(2) {
                partition.now.clone_from(&partition.to);
            }
        }
        for member in &mut self.view.members {
            if member.stopped {
                member.serves = false;
            }
            // The roller and join_quorum: roles become what they are to be.
            if !member.leaving && member.serves && random.one_in(2) {
                member.voter = member.votes;
            }
        }
    }

    fn act(&mut self, step: &Step, half: bool, at: &str) {
        match step {
            Step::Keep(id) => {
                for partition in &mut self.view.partitions {
                    if partition.now.contains(id) {
                        partition.to.clone_from(&partition.now);
                    }
                }
                let member = self.member(*id);
                if member.stopped {
                    (member.stopped, member.serves) = (false, true);
                }
                member.cordoned = false;
                member.marked = half;
            }
            Step::Mark(id) => {
                let member = self.member(*id);
                member.marked = true;
                member.cordoned = !half;
            }
            Step::Promote(id) => self.member(*id).votes = true,
            Step::Demote(id) => self.member(*id).votes = false,
            Step::Move(moves) => {
                for one in moves {
                    let mut all = self.view.partitions.iter_mut();
                    let partition = all.find(|p| p.at == one.at()).expect("it is there");
                    assert_eq!(partition.to.len(), one.to.len(), "{at}: {one:?}");
                    partition.to.clone_from(&one.to);
                    if half {
                        break;
                    }
                }
            }
            Step::Stop(id) => {
                let held = self.view.partitions.iter().filter(|p| holds(p, *id));
                assert_eq!(
                    held.count(),
                    0,
                    "{at}: broker {id} is stopped with what it holds"
                );
                let member = self.member(*id);
                assert!(member.leaving, "{at}: broker {id} is to stay");
                (member.votes, member.voter) = (false, false);
                member.stopped = !half;
                let voters = self.view.members.iter().filter(|m| m.voter).count();
                assert!(voters >= 3, "{at}: {voters} voters are left");
                self.stops += 1;
            }
            Step::Remove(id) => {
                let member = self.member(*id);
                assert!(member.leaving && !member.serves, "{at}: {member:?}");
                self.gone.insert(*id);
                self.view.members.retain(|m| m.id != *id);
            }
        }
    }
}

fn history(seed: u64) -> usize {
    let random = &mut Random::new(seed, 0);
    let mut world = World::new(random);
    for round in 0..TROUBLE {
        if random.one_in(12) {
            world.change_of_mind(random);
        }
        world.goes_on(random);
        if let Decision::Do(step) = decide(&world.view) {
            let half = random.one_in(4);
            world.act(&step, half, &format!("seed {seed}, round {round}"));
        }
    }
    let mut last = Decision::Idle;
    for round in 0..PEACE {
        world.goes_on(random);
        last = decide(&world.view);
        if let Decision::Do(step) = &last {
            world.act(step, false, &format!("seed {seed}, peace {round}"));
        }
        let settled = world.view.members.iter().all(|m| m.voter == m.votes);
        if last == Decision::Idle && settled {
            let members = &world.view.members;
            assert!(
                members.iter().all(|m| !m.leaving && !m.marked),
                "seed {seed}"
            );
            assert_eq!(members.iter().filter(|m| m.voter).count(), 3, "seed {seed}");
            for partition in &world.view.partitions {
                assert!(!partition.now.iter().any(|id| world.gone.contains(id)));
            }
            return world.stops;
        }
    }
    panic!("seed {seed} does not finish: {last:?}");
}

#[test]
fn random_histories_keep_the_promises() {
    let stops: usize = (0..2_000).map(history).sum();
    assert!(
        stops > 500,
        "{stops} brokers left: the histories are too quiet"
    );
}
