//! Connections: accept, frames in, answers out in order, budgets of memory.

mod budget;
mod connection;
mod frame;
mod listener;
mod slots;

pub(crate) use budget::{Budget, Permit};
pub(crate) use frame::{FrameError, answer, finish, peek, start};
pub(crate) use listener::{Acceptor, bind};
