//! How brokers leave a cluster, and who votes instead; pure.
//!
//! [`decide`] is asked again after every change of the world and remembers nothing. A broker goes
//! only when nothing is on it any more, and until then it can stay after all: its mark and the
//! moves are taken back.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tidemark_client::TopicPartition;
use tidemark_client::admin::placement::{self, Move, Target};

/// Partitions that are moved at once: more would take the disks and the network from clients.
pub const MOST_MOVES: usize = 32;
/// Of each disk this part stays free, in percent.
const FREE_PERCENT: i64 = 10;
/// Topics that are named at most.
const NAMED: usize = 5;

/// A broker, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: i32,
    /// Its rack.
    pub rack: Option<String>,
    /// It is to go.
    pub leaving: bool,
    /// It was marked as one that goes.
    pub marked: bool,
    /// It is registered and serves.
    pub serves: bool,
    /// It gets no new replicas.
    pub cordoned: bool,
    /// It is in the quorum.
    pub voter: bool,
    /// It is to be in the quorum.
    pub votes: bool,
    /// Its StatefulSet makes no pod, and there is none.
    pub stopped: bool,
    /// Its disk and what of it is free, in bytes, as far as it tells.
    pub disk: Option<(i64, i64)>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Which.
    pub at: TopicPartition,
    /// Who is to hold it, when moves that are under way are done.
    pub to: Vec<i32>,
    /// Who holds it now.
    pub now: Vec<i32>,
    /// Its size, in bytes.
    pub bytes: i64,
}

impl Placed {
    fn moves(&self) -> bool {
        self.to.iter().collect::<BTreeSet<_>>() != self.now.iter().collect()
    }
}

/// What is to be decided on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// All brokers.
    pub members: Vec<Member>,
    /// All partitions.
    pub partitions: Vec<Placed>,
    /// How many are to vote.
    pub voters: usize,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It stays after all: moves off it are cancelled, and it may have new replicas again.
    Keep(i32),
    /// It is marked, and gets no new replicas.
    Mark(i32),
    /// It is to vote: the roller restarts it as one that does.
    Promote(i32),
    /// It is to vote no more: the roller restarts it as one that follows.
    Demote(i32),
    /// These replicas are moved.
    Move(Vec<Move>),
    /// Nothing is on it: it gives up its vote, and its pod goes.
    Stop(i32),
    /// It is stopped: it is taken out of the cluster, with all that is its own.
    Remove(i32),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep(id) => write!(f, "broker {id} stays after all"),
            Self::Mark(id) => write!(f, "broker {id} is on its way out"),
            Self::Promote(id) => write!(f, "broker {id} is to vote in the quorum"),
            Self::Demote(id) => write!(f, "broker {id} is to vote no more"),
            Self::Move(moves) => write!(f, "{} partitions are moved", moves.len()),
            Self::Stop(id) => write!(f, "broker {id} holds nothing and is stopped"),
            Self::Remove(id) => write!(f, "broker {id} is taken out of the cluster"),
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: nobody is to go, and who is to vote does.
    Idle,
    /// This.
    Do(Step),
    /// Nothing yet: something is under way.
    Wait(String),
    /// Nothing before a person does something: it cannot be done.
    Blocked(String),
}

/// Decides on the next step. Asked only while all brokers that stay are well.
#[must_use]
pub fn decide(view: &View) -> Decision {
    let members = &view.members;
    if let Some(back) = members.iter().find(|m| m.marked && !m.leaving) {
        return Decision::Do(Step::Keep(back.id));
    }
    let leaving: Vec<&Member> = members.iter().filter(|m| m.leaving).collect();
    // One that is stopped is past being held back.
    if let Some(gone) = leaving.iter().find(|m| m.stopped) {
        return match gone.serves {
            true => Decision::Wait(format!("broker {} is stopping", gone.id)),
            false => Decision::Do(Step::Remove(gone.id)),
        };
    }
    let moves = match leaving.is_empty() {
        true => Vec::new(),
        false => match planned(view) {
            Ok(moves) => moves,
            Err(blocked) => return Decision::Blocked(blocked),
        },
    };
    // One that was down when it was marked could not be told.
    let open = |m: &&&Member| !m.marked || (m.serves && !m.cordoned);
    if let Some(next) = leaving.iter().find(open) {
        return Decision::Do(Step::Mark(next.id));
    }
    if let Some(decision) = quorum(view) {
        return decision;
    }
    // The highest first, each as soon as it is empty.
    let empty = |m: &&&Member| !view.partitions.iter().any(|p| holds(p, m.id));
    if let Some(next) = leaving.iter().rev().find(empty) {
        return Decision::Do(Step::Stop(next.id));
    }
    let under_way = view.partitions.iter().filter(|p| p.moves()).count();
    let room = MOST_MOVES.saturating_sub(under_way);
    if !moves.is_empty() && room > 0 {
        return Decision::Do(Step::Move(moves.into_iter().take(room).collect()));
    }
    let left = |m: &Member| view.partitions.iter().filter(|p| holds(p, m.id)).count();
    let each = leaving.iter().map(|m| match left(m) {
        1 => format!("broker {} still holds 1 partition", m.id),
        left => format!("broker {} still holds {left} partitions", m.id),
    });
    match leaving.is_empty() {
        true => Decision::Idle,
        false => Decision::Wait(each.collect::<Vec<_>>().join(", ")),
    }
}

fn holds(partition: &Placed, id: i32) -> bool {
    partition.now.contains(&id) || partition.to.contains(&id)
}

/// Brings the quorum to who is to vote: another one before one that goes, and one at a time.
fn quorum(view: &View) -> Option<Decision> {
    let stay: Vec<&Member> = view.members.iter().filter(|m| !m.leaving).collect();
    let votes = stay.iter().filter(|m| m.votes).count();
    if votes < view.voters {
        let next = stay.iter().find(|m| !m.votes && m.serves);
        return Some(match next {
            Some(next) => Decision::Do(Step::Promote(next.id)),
            None => Decision::Blocked(format!(
                "{} brokers are to vote, and no other one works",
                view.voters
            )),
        });
    }
    if let Some(coming) = stay.iter().find(|m| m.votes && !m.voter) {
        let text = format!("broker {} joins the quorum", coming.id);
        return Some(Decision::Wait(text));
    }
    if votes > view.voters {
        let last = stay.iter().rev().find(|m| m.votes)?;
        return Some(Decision::Do(Step::Demote(last.id)));
    }
    None
}

/// What has to be moved off those that leave, or why it cannot be.
fn planned(view: &View) -> Result<Vec<Move>, String> {
    let stay: Vec<&Member> = view.members.iter().filter(|m| !m.leaving).collect();
    let ids: BTreeSet<i32> = view
        .members
        .iter()
        .filter(|m| m.leaving)
        .map(|m| m.id)
        .collect();
    let mut too_many: Vec<&str> = view
        .partitions
        .iter()
        .filter(|p| p.to.len() > stay.len() && p.to.iter().any(|id| ids.contains(id)))
        .map(|p| p.at.topic.as_str())
        .collect();
    too_many.dedup();
    if let Some(partition) = view
        .partitions
        .iter()
        .find(|p| too_many.contains(&&*p.at.topic))
    {
        return Err(format!(
            "{} brokers would stay, and topics have more replicas than that ({} has {}): {}",
            stay.len(),
            partition.at.topic,
            partition.to.len(),
            named(&too_many)
        ));
    }
    let targets: Vec<Target> = stay
        .iter()
        .filter(|m| m.serves && !m.cordoned)
        .map(|m| Target {
            id: m.id,
            rack: m.rack.clone(),
        })
        .collect();
    let mut all: Vec<(TopicPartition, Vec<i32>)> = view
        .partitions
        .iter()
        .map(|p| (p.at.clone(), p.to.clone()))
        .collect();
    let index: BTreeMap<TopicPartition, usize> = (0..)
        .zip(&all)
        .map(|(i, (at, _))| (at.clone(), i))
        .collect();
    let mut touched = BTreeSet::new();
    for id in &ids {
        let moves = placement::drain(&all, *id, &targets);
        for one in moves.map_err(|error| format!("{error}{}", cordoned(&stay)))? {
            if let Some(i) = index.get(&one.at()) {
                all[*i].1 = one.to;
                touched.insert(*i);
            }
        }
    }
    let moves = touched.into_iter().map(|i| Move {
        topic: all[i].0.topic.clone(),
        partition: all[i].0.partition,
        from: view.partitions[i].to.clone(),
        to: all[i].1.clone(),
    });
    let moves: Vec<Move> = moves.collect();
    fits(view, &moves)?;
    Ok(moves)
}

/// Whom somebody keeps new replicas off, of those that stay.
fn cordoned(stay: &[&Member]) -> String {
    let mut hint = String::new();
    for member in stay.iter().filter(|m| m.cordoned) {
        let id = member.id;
        hint += &format!("; broker {id} is cordoned: tidemark cluster uncordon {id}");
    }
    hint
}

/// Whether disks take what is moved to them.
fn fits(view: &View, moves: &[Move]) -> Result<(), String> {
    let sizes: BTreeMap<&TopicPartition, i64> =
        view.partitions.iter().map(|p| (&p.at, p.bytes)).collect();
    let mut more: BTreeMap<i32, i64> = BTreeMap::new();
    for one in moves {
        let bytes = sizes.get(&one.at()).copied().unwrap_or(0);
        for id in one.to.iter().filter(|id| !one.from.contains(id)) {
            let sum = more.entry(*id).or_default();
            *sum = sum.saturating_add(bytes);
        }
    }
    for (id, bytes) in more {
        let member = view.members.iter().find(|m| m.id == id);
        let Some((total, free)) = member.and_then(|m| m.disk) else {
            continue;
        };
        let room = (free - total / 100 * FREE_PERCENT).max(0);
        if bytes > room {
            return Err(format!(
                "broker {id} would get {bytes} bytes more, and has room for {room}: make its disk larger, or shorten what topics keep"
            ));
        }
    }
    Ok(())
}

fn named(topics: &[&str]) -> String {
    let mut text = topics
        .iter()
        .take(NAMED)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if topics.len() > NAMED {
        text.push_str(", …");
    }
    text
}
