//! The power cut: what is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{BLOCK, Chance, Device, FileNode, Kind, ROOT, SECTOR, block_bytes};

/// What a cut left and took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survivors {
    /// Changed blocks that were not synced and are gone.
    pub blocks_lost: u64,
    /// Changed blocks that were not synced and survived.
    pub blocks_kept: u64,
    /// Changed blocks of which some sectors survived.
    pub blocks_torn: u64,
    /// Changes of names that were not synced and are gone.
    pub names_lost: u64,
    /// Changes of names that were not synced and survived.
    pub names_kept: u64,
}

impl std::ops::AddAssign for Survivors {
    fn add_assign(&mut self, other: Self) {
        self.blocks_lost += other.blocks_lost;
        self.blocks_kept += other.blocks_kept;
        self.blocks_torn += other.blocks_torn;
        self.names_lost += other.names_lost;
        self.names_kept += other.names_kept;
    }
}

impl Device {
    /// Drops what is not durable, except for what chance lets survive; every handle is dead from now
    /// on. In two of five cuts nothing survives, in the others a subset of blocks in any order, some
    /// torn between sectors, and a prefix of the changes of names in some or all directories.
    pub fn cut(&mut self) -> Survivors {
        let mut chance = self.chance.fork();
        let mut survivors = Survivors::default();
        let survival_percent = match chance.below(5) {
            0 | 1 => 0,
            2 => 10,
            3 => 50,
            _ => 90,
        };
        let names = self.name_ops.len();
        if survival_percent > 0 && names > 0 {
            let last = chance.index(names + 1);
            let version = if last == names {
                self.version
            } else {
                self.name_ops[last].version
            };
            let dirs: Option<BTreeSet<_>> = chance.percent(50).then(|| {
                let touched = self.name_ops.iter().flat_map(|op| &op.effects);
                let touched: BTreeSet<_> = touched.map(|(dir, ..)| *dir).collect();
                touched.into_iter().filter(|_| chance.percent(50)).collect()
            });
            self.keep_names(dirs, version);
        }
        survivors.names_lost = self.name_ops.len() as u64;
        survivors.names_kept = (names - self.name_ops.len()) as u64;
        self.name_ops.clear();

        // In the order of their numbers, so that a seed gives the same choices again.
        let mut inos: Vec<_> = self.nodes.keys().copied().collect();
        inos.sort_unstable();
        for ino in &inos {
            if let Some(Kind::File(file)) = self.nodes.get_mut(ino).map(|node| &mut node.kind) {
                cut_file(file, survival_percent, &mut chance, &mut survivors);
            }
        }
        self.forget_unreachable();
        self.generation += 1;
        self.writeback_percent = [0, 0, 3, 20][chance.index(4)];
        survivors
    }

    /// Names become what they durably are; what no name leads to is gone.
    fn forget_unreachable(&mut self) {
        let mut reached = BTreeMap::from([(ROOT, ROOT)]);
        let mut waiting = vec![ROOT];
        while let Some(ino) = waiting.pop() {
            if let Some(Kind::Dir(dir)) = self.nodes.get(&ino).map(|node| &node.kind) {
                for child in dir.durable.values() {
                    if reached.insert(*child, ino).is_none() {
                        waiting.push(*child);
                    }
                }
            }
        }
        self.nodes.retain(|ino, _| reached.contains_key(ino));
        for (ino, node) in &mut self.nodes {
            if let Kind::Dir(dir) = &mut node.kind {
                dir.current = dir.durable.clone();
                dir.parent = reached[ino];
            }
        }
    }
}

fn cut_file(file: &mut FileNode, percent: u64, chance: &mut Chance, survivors: &mut Survivors) {
    let dirty = std::mem::take(&mut file.dirty);
    let mut data = std::mem::take(&mut file.durable);
    let mut kept: Vec<(usize, Vec<u8>)> = Vec::new();
    for block in dirty.into_keys() {
        if !chance.percent(percent) {
            survivors.blocks_lost += 1;
            continue;
        }
        let mut bytes = block_bytes(&file.current, block).to_vec();
        if chance.percent(25) {
            survivors.blocks_torn += 1;
            let old = block_bytes(&data, block);
            for (at, sector) in bytes.chunks_mut(SECTOR).enumerate() {
                if chance.percent(50) {
                    for (i, byte) in sector.iter_mut().enumerate() {
                        *byte = old.get(at * SECTOR + i).copied().unwrap_or(0);
                    }
                }
            }
        } else {
            survivors.blocks_kept += 1;
        }
        kept.push((block, bytes));
    }
    if percent > 0 && file.len_version > file.durable_len_version {
        let reach = kept.last().map_or(0, |(b, bytes)| b * BLOCK + bytes.len());
        match chance.below(3) {
            0 => {}
            1 => data.resize(data.len().max(reach), 0),
            _ => data.resize(file.current.len(), 0),
        }
    }
    for (block, bytes) in kept {
        let from = block * BLOCK;
        let to = (from + bytes.len()).min(data.len());
        if from < to {
            data[from..to].copy_from_slice(&bytes[..to - from]);
        }
    }
    file.current.clone_from(&data);
    file.durable = data;
    file.durable_versions = HashMap::new();
    file.len_version = 0;
    file.durable_len_version = 0;
}
