//! Power cuts: what survives one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::{Change, Inode, MemDisk, Node, State, is_root, lock};

/// A small generator, so that a crash is replayable from its seed.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z % (bound.max(1) as u64)).unwrap_or(0)
    }
}

/// Some prefix of the changes, the last of them possibly torn.
fn keep_prefix(inode: &Inode, choose: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    let mut data = inode.durable.clone();
    let kept = choose(inode.pending.len() + 1);
    for change in &inode.pending[..kept] {
        change.apply(&mut data);
    }
    if let Some(Change::Write { offset, bytes }) = inode.pending.get(kept) {
        let torn = choose(bytes.len() + 1);
        if torn > 0 {
            let bytes = bytes[..torn].to_vec();
            Change::Write {
                offset: *offset,
                bytes,
            }
            .apply(&mut data);
        }
    }
    data
}

/// Any subset of the blocks that were written, and of the changes of length.
fn keep_blocks(inode: &Inode, choose: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    let mut data = inode.durable.clone();
    let block: usize = [512, 4096][choose(2)];
    // Of eight blocks, so many survive: none, a few, all.
    let density = choose(9);
    for change in &inode.pending {
        match change {
            Change::SetLen(_) => {
                if choose(8) < density {
                    change.apply(&mut data);
                }
            }
            Change::Write { offset, bytes } => {
                let mut from = 0;
                while from < bytes.len() {
                    let position = offset + from as u64;
                    let within = usize::try_from(position % block as u64).unwrap_or(0);
                    let to = (from + block - within).min(bytes.len());
                    if choose(8) < density {
                        Change::Write {
                            offset: position,
                            bytes: bytes[from..to].to_vec(),
                        }
                        .apply(&mut data);
                    }
                    from = to;
                }
            }
        }
    }
    data
}

impl MemDisk {
    /// The process ends and another begins: handles are dead, locks are free, calls go
    /// well again after [`Self::cut_power_after`], and nothing is lost.
    pub fn restart(&self) {
        let mut state = lock(&self.state);
        state.incarnation += 1;
        state.locked.clear();
        state.power_left = None;
    }

    /// Power cut: everything that was not synced is gone, open handles are dead,
    /// locks are free, the power is back. Faults and capacity stay.
    pub fn crash(&self) {
        self.crash_keeping(|_| 0, keep_prefix);
    }

    /// Power cut that keeps, for each file, some prefix of what was not synced (the
    /// last change possibly torn), and for each directory its synced or its latest
    /// names, chosen by `seed`.
    pub fn crash_with_seed(&self, seed: u64) {
        let mut random = SplitMix(seed);
        self.crash_keeping(move |bound| random.below(bound), keep_prefix);
    }

    /// Power cut as devices with a cache of their own have it: of what was not synced
    /// any subset of blocks (512 bytes or 4 KiB each) survives, whatever the order in
    /// which they were written; names as with [`Self::crash_with_seed`].
    pub fn crash_torn(&self, seed: u64) {
        let mut random = SplitMix(seed);
        self.crash_keeping(move |bound| random.below(bound), keep_blocks);
    }

    /// `choose(n)` gives a number in `0..n`; 0 always keeps least. `keep` makes of a
    /// file's contents what survives of them.
    fn crash_keeping(
        &self,
        mut choose: impl FnMut(usize) -> usize,
        keep: fn(&Inode, &mut dyn FnMut(usize) -> usize) -> Vec<u8>,
    ) {
        let mut state = lock(&self.state);
        state.incarnation += 1;
        state.power_left = None;
        state.locked.clear();
        state.renamed_dirs.clear();
        let mut dirs: BTreeSet<PathBuf> = BTreeSet::new();
        for path in state.names.keys().chain(state.durable_names.keys()) {
            if let Some(parent) = path.parent() {
                dirs.insert(parent.to_owned());
            }
        }
        let mut survivors = BTreeMap::new();
        for dir in dirs {
            let source = if choose(2) == 0 {
                &state.durable_names
            } else {
                &state.names
            };
            survivors.extend(State::children(source, &dir));
        }
        // A name whose directory did not survive is gone with it.
        let all: BTreeSet<PathBuf> = survivors.keys().cloned().collect();
        survivors.retain(|path, _| {
            path.ancestors()
                .skip(1)
                .all(|parent| is_root(parent) || all.contains(parent))
        });
        for node in survivors.values_mut() {
            if let Node::File(inode) = node {
                let data = keep(&lock(inode), &mut choose);
                *inode = Arc::new(Mutex::new(Inode {
                    current: data.clone(),
                    durable: data,
                    pending: Vec::new(),
                }));
            }
        }
        state.names.clone_from(&survivors);
        state.durable_names = survivors;
    }
}
