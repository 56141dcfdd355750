//! Voters that come and go while the quorum lives: a learner first, which catches up, then a voter.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::ChangeMembers;
use tidemark_env::clock;

use super::super::client::Caller;
use super::super::members::{change_members, make_way};
use super::super::propose::QuorumError;
use super::super::types::{VoterId, VoterNode};
use super::{ASK_TIMEOUT, Quorum, status_of};

impl Quorum {
    /// Takes a voter in: as a learner first, and as a voter when it has caught up. On the
    /// leader only. May be called again after a failure: it goes on where it stopped.
    ///
    /// # Errors
    /// [`QuorumError::Failed`] when another directory of its node has a vote (remove that one
    /// first), or it does not catch up within `patience`; it stays a learner then.
    /// [`QuorumError::TimedOut`] when a majority does not agree within `patience`.
    pub async fn add_voter(
        &self,
        voter: VoterId,
        address: String,
        patience: Duration,
    ) -> Result<(), QuorumError> {
        self.must_lead()?;
        let membership = make_way(&self.server.raft, voter, patience).await?;
        if membership.get_node(&voter).is_none() {
            let node = BTreeMap::from([(voter, VoterNode { address })]);
            self.change(ChangeMembers::AddNodes(node), true, patience)
                .await?;
        }
        let caught_up = self.caught_up(voter);
        match clock::timeout(patience, caught_up).await {
            Ok(true) => {}
            Ok(false) => return Err(QuorumError::LeadershipLost),
            Err(_) => {
                return Err(QuorumError::Failed(format!(
                    "voter {voter} has not caught up within {} ms: it stays a learner; try again, or remove it",
                    patience.as_millis()
                )));
            }
        }
        let change = ChangeMembers::AddVoterIds([voter].into());
        self.change(change, true, patience).await
    }

    fn must_lead(&self) -> Result<(), QuorumError> {
        match self.is_active() {
            Some(_) => Ok(()),
            None => Err(QuorumError::NotController {
                leader: self.leader(),
            }),
        }
    }

    async fn change(
        &self,
        change: ChangeMembers<VoterId, VoterNode>,
        retain: bool,
        patience: Duration,
    ) -> Result<(), QuorumError> {
        change_members(&self.server.raft, change, retain, patience).await
    }

    /// Ends when `voter` had all that was logged an election timeout before; `false` when
    /// this node leads no more.
    async fn caught_up(&self, voter: VoterId) -> bool {
        let mut metrics = self.server.raft.metrics();
        let mut goal = None;
        loop {
            let now = metrics.borrow_and_update().clone();
            let Some(replication) = &now.replication else {
                return false;
            };
            let last = now.last_log_index.unwrap_or(0);
            let (goal_index, since) = *goal.get_or_insert((last, clock::monotonic()));
            let matched = replication.get(&voter).copied().flatten();
            if matched.is_some_and(|matched| matched.index >= goal_index) {
                if since.elapsed() < self.catch_up {
                    return true;
                }
                // That took so long that much may have come since: another round.
                goal = None;
                continue;
            }
            if metrics.changed().await.is_err() {
                return false;
            }
        }
    }

    /// Takes a vote away, or a learner out. On the leader only. A voter that is there stays a
    /// learner: it follows on and forwards, as an observer does. One that is not is taken out, and
    /// so is this node, as it would go on to lead; they ask to follow when they are back.
    ///
    /// # Errors
    /// [`QuorumError::Failed`] when it is not a member, or the only voter;
    /// [`QuorumError::TimedOut`] when a majority does not agree within `patience`.
    pub async fn remove_voter(
        &self,
        voter: VoterId,
        patience: Duration,
    ) -> Result<(), QuorumError> {
        self.must_lead()?;
        let membership = self.membership();
        let votes = membership.voter_ids().any(|id| id == voter);
        let change = match votes {
            true => ChangeMembers::RemoveVoters([voter].into()),
            false => ChangeMembers::RemoveNodes([voter].into()),
        };
        let stays = match membership.get_node(&voter) {
            Some(node) if votes && voter != self.server.identity.voter => {
                is_there(&self.caller, voter, &node.address).await
            }
            _ => false,
        };
        self.change(change, stays, patience).await
    }
}

/// Whether a member answers at its address.
pub(super) async fn is_there(caller: &Caller, member: VoterId, address: &str) -> bool {
    let status = status_of(caller, address, ASK_TIMEOUT).await;
    status.is_ok_and(|status| status.voter == member)
}
