//! Members without a vote: nodes that have not got one yet, or whose vote was taken away.
//!
//! A node that is taken out while it is away does not hear of it: nobody sends to it any more. So
//! one that hears of no leader asks those whom it knows to let it follow, and the leader lets go
//! of learners that have not answered for long: they come back by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use tidemark_env::clock;

use super::super::client::{Caller, Link};
use super::super::members::{PATIENCE, change_members, members};
use super::super::server::Server;
use super::super::types::{VoterId, VoterNode};
use super::super::wire::{Request, Response};
use super::QuorumConfig;
use super::membership::is_there;

/// Learners are asked so often whether they are there.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// A learner that has not been there so many times is let go.
const MOST_ABSENCES: u32 = 4;

/// Has this node follow where it has no vote, and lets go of those that are gone.
pub(super) struct Learners {
    server: Arc<Server>,
    caller: Caller,
    election: Duration,
    advertised: Option<String>,
    bootstrap: Vec<String>,
}

impl Learners {
    pub(super) fn new(server: Arc<Server>, caller: Caller, config: &QuorumConfig) -> Learners {
        Learners {
            server,
            caller,
            election: Duration::from_millis(config.election_ms),
            advertised: config.advertised.clone(),
            bootstrap: config.bootstrap.clone(),
        }
    }

    pub(super) async fn run(self) {
        let (mut absences, mut refused) = (BTreeMap::new(), None);
        let mut asked = clock::monotonic();
        loop {
            clock::sleep(self.election).await;
            if self.server.activity.epoch().is_none() {
                absences.clear();
                // An election may take some rounds.
                if self.server.unheard() > self.election * 4 {
                    let reason = self.join().await;
                    if reason.is_some() && reason != refused {
                        tracing::warn!(reason, "the metadata quorum does not let this node follow");
                    }
                    refused = reason;
                }
            } else if asked.elapsed() >= ASK_EVERY {
                asked = clock::monotonic();
                self.let_go(&mut absences).await;
            }
        }
    }

    /// Asks those who are known, until the leader is among them. Where nobody leads, nobody does.
    /// Gives why it was refused.
    async fn join(&self) -> Option<String> {
        let (me, membership) = (self.server.identity.voter, members(&self.server.raft));
        let known = membership.get_node(&me).map(|node| node.address.clone());
        let address = self.advertised.clone().or(known)?;
        let others = membership.nodes().filter(|(member, _)| **member != me);
        let others = others.map(|(_, node)| node.address.clone());
        let mut asked: BTreeSet<String> = others.chain(self.bootstrap.iter().cloned()).collect();
        asked.remove(&address);
        let request = Request::Join { address };
        let mut refused = None;
        for address in asked {
            let mut link = Link::new(self.caller.clone(), address, None);
            match link.call(&request, PATIENCE).await {
                Ok(Response::Joined) => return None,
                // The leader, or one of a version that does not know how to be asked: others may.
                Ok(Response::Failed(reason)) => refused = Some(reason),
                // It does not lead, or is not there.
                _ => {}
            }
        }
        refused
    }

    async fn let_go(&self, absences: &mut BTreeMap<VoterId, u32>) {
        let membership = members(&self.server.raft);
        let votes = |member: &VoterId| membership.voter_ids().any(|voter| voter == *member);
        let learners = membership.nodes().filter(|(member, _)| !votes(member));
        let learners: BTreeMap<VoterId, &VoterNode> =
            learners.map(|(member, node)| (*member, node)).collect();
        absences.retain(|known, _| learners.contains_key(known));
        for (learner, node) in learners {
            if is_there(&self.caller, learner, &node.address).await {
                absences.remove(&learner);
                continue;
            }
            let count = absences.entry(learner).or_default();
            *count += 1;
            if *count < MOST_ABSENCES {
                continue;
            }
            let gone = ChangeMembers::RemoveNodes([learner].into());
            match change_members(&self.server.raft, gone, true, PATIENCE).await {
                Ok(()) => {
                    absences.remove(&learner);
                    tracing::info!(node = %learner, "a node without a vote is not there: the metadata quorum lets go of it");
                }
                Err(error) => {
                    tracing::warn!(%error, node = %learner, "an absent node without a vote is still a member");
                }
            }
        }
    }
}
