//! What openraft waits, spawns and draws with: the seams of `tidemark_env`, so that a
//! simulation owns its time and its chance.

use std::future::Future;
use std::time::Duration;

use openraft::async_runtime::TokioOneShotSender;
use rand_core::RngCore;
use tidemark_env::task::{Task, TaskError};
use tokio::sync::oneshot;

/// The runtime of a raft node: tasks, time and chance of `tidemark_env`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EnvRuntime;

/// The environment's chance, in the shape that openraft asks for: election timeouts.
#[derive(Debug, Clone, Copy)]
pub struct EnvRandom;

impl RngCore for EnvRandom {
    fn next_u32(&mut self) -> u32 {
        // The upper half: as good as the lower one.
        u32::try_from(self.next_u64() >> 32).unwrap_or(0)
    }

    fn next_u64(&mut self) -> u64 {
        #[cfg(test)]
        if let Some(number) = seeded::next() {
            return number;
        }
        tidemark_env::random::u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl openraft::AsyncRuntime for EnvRuntime {
    type JoinError = TaskError;
    type JoinHandle<T: Send + 'static> = Task<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = tidemark_env::clock::Instant;
    type TimeoutError = tidemark_env::clock::Elapsed;
    type Timeout<R, T: Future<Output = R> + Send> = tokio::time::Timeout<T>;
    type ThreadLocalRng = EnvRandom;
    type OneshotSender<T: Send> = TokioOneShotSender<T>;
    type OneshotReceiverError = oneshot::error::RecvError;
    type OneshotReceiver<T: Send> = oneshot::Receiver<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        tidemark_env::task::spawn("raft", future)
    }

    // The names of the futures are part of openraft's interface, so that the functions of
    // `tidemark_env::clock` cannot be called here; the clock is theirs.
    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        tokio::time::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        matches!(error, TaskError::Panicked { .. })
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        EnvRandom
    }

    fn oneshot<T>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>)
    where
        T: Send,
    {
        let (sender, receiver) = oneshot::channel();
        (TokioOneShotSender(sender), receiver)
    }
}

/// Sends what may have nobody to receive it any more.
pub(super) fn tell<T>(sender: oneshot::Sender<T>, value: T) {
    drop(sender.send(value).err());
}

/// Chance from a seed, for the thread that asked for it.
#[cfg(test)]
pub(super) mod seeded {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// From here on this thread's chance follows from `seed`.
    pub(in crate::raft) fn install(seed: u64) {
        STATE.with(|state| state.set(Some(seed)));
    }

    pub(super) fn next() -> Option<u64> {
        STATE.with(|state| {
            let next = state.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
            state.set(Some(next));
            let mut z = next;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            Some(z ^ (z >> 31))
        })
    }
}
