//! What one step reads and writes besides the groups.

use crate::config::GroupConfig;
use crate::records::CoordinatorRecord;
use crate::request::Token;
use crate::response::Response;
use crate::timers::Timers;

/// The surroundings of one step: its time, its settings, and what it brings about.
pub(crate) struct Context<'a> {
    pub(crate) now_ms: i64,
    pub(crate) config: &'a GroupConfig,
    pub(crate) timers: &'a mut Timers,
    /// To be appended, then applied.
    pub(crate) records: &'a mut Vec<CoordinatorRecord>,
    /// To be given once all that was appended before or by this step is committed.
    pub(crate) replies: &'a mut Vec<(Token, Response)>,
}

impl Context<'_> {
    pub(crate) fn reply(&mut self, token: Token, response: Response) {
        self.replies.push((token, response));
    }
}
