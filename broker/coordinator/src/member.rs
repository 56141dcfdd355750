//! One member of a classic group: what it told, what it was given, and the
//! requests that it has parked.

use bytes::Bytes;

use crate::context::Context;
use crate::records::MemberRecord;
use crate::request::Token;
use crate::timers::{Timer, TimerKey};

/// One member.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    /// Name and metadata, by preference.
    pub(crate) protocols: Vec<(String, Bytes)>,
    pub(crate) assignment: Bytes,
    /// Never had a JoinGroup answered: may expire while it is parked.
    pub(crate) is_new: bool,
    pub(crate) session: Timer,
    pub(crate) awaiting_join: Option<Token>,
    pub(crate) awaiting_sync: Option<Token>,
}

impl Member {
    pub(crate) fn from_record(record: MemberRecord, protocol_name: &str) -> Self {
        Self {
            id: record.member_id,
            instance_id: record.instance_id,
            client_id: record.client_id,
            client_host: record.client_host,
            rebalance_timeout_ms: record.rebalance_timeout_ms,
            session_timeout_ms: record.session_timeout_ms,
            protocols: vec![(protocol_name.to_owned(), record.subscription)],
            assignment: record.assignment,
            is_new: false,
            session: Timer::default(),
            awaiting_join: None,
            awaiting_sync: None,
        }
    }

    pub(crate) fn is_awaiting_join(&self) -> bool {
        self.awaiting_join.is_some()
    }

    /// Whether a parked request stands for the heartbeat that did not come.
    pub(crate) fn has_satisfied_heartbeat(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    /// The metadata for a protocol; empty if the member does not know it.
    pub(crate) fn metadata(&self, protocol: Option<&str>) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| Some(name.as_str()) == protocol)
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }

    /// Arms the session timer `timeout_ms` from now.
    pub(crate) fn restart_session(
        &mut self,
        group_id: &str,
        timeout_ms: i32,
        cx: &mut Context<'_>,
    ) {
        let deadline_ms = cx.now_ms.saturating_add(i64::from(timeout_ms));
        let id = &self.id;
        cx.timers
            .set(&mut self.session, deadline_ms, || TimerKey::Session {
                group_id: group_id.to_owned(),
                member_id: id.clone(),
            });
    }
}
