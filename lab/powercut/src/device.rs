//! A disk in memory that knows what would survive a power cut.
//!
//! Every file has its current bytes and its durable ones, every directory its current names and its
//! durable ones. Writing changes what is current; only a sync of that very file makes its bytes and
//! length durable, only a sync of that very directory its names (ext4 and XFS give a little more: a
//! file's fsync keeps its own name too; a program that needs that is found out here).
//!
//! A sync makes durable what was there when it began, not what was written while it ran.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use crate::chance::Chance;

mod cut;
#[cfg(test)]
mod tests;

pub use cut::Survivors;

/// The number of a file or directory; never used twice.
pub type Ino = u64;
/// The root directory.
pub const ROOT: Ino = 1;
/// What is lost or kept as one, in bytes.
pub const BLOCK: usize = 4096;
/// What a torn block is made of, in bytes.
pub const SECTOR: usize = 512;
/// The size that the disk claims, in bytes.
pub const CAPACITY: u64 = 8 << 30;

type Result<T> = std::result::Result<T, Errno>;

/// Which syncs only pretend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lies {
    /// Those of files, and syncfs.
    pub files: bool,
    /// Those of directories, and syncfs.
    pub names: bool,
}

#[derive(Debug, Default)]
struct FileNode {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Blocks that differ from the durable ones, each with the number of its last change.
    dirty: BTreeMap<usize, u64>,
    /// The last change of the length, and the one that is durable.
    len_version: u64,
    durable_len_version: u64,
    /// The change that each durable block shows, of those that were ever changed.
    durable_versions: HashMap<usize, u64>,
}

#[derive(Debug, Default)]
struct DirNode {
    current: BTreeMap<String, Ino>,
    durable: BTreeMap<String, Ino>,
    parent: Ino,
}

#[derive(Debug)]
enum Kind {
    File(FileNode),
    Dir(DirNode),
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    modified: Duration,
}

/// A change of names that happens as a whole: directory, name, what it leads to.
#[derive(Debug)]
struct NameOp {
    version: u64,
    effects: Vec<(Ino, String, Option<Ino>)>,
}

/// What a sync will make durable, as it was when the sync began.
#[derive(Debug, Default)]
pub struct Sync {
    files: Vec<FileSync>,
    /// `None` for the names of all directories.
    names: Option<(Option<Ino>, u64)>,
}

#[derive(Debug)]
struct FileSync {
    ino: Ino,
    len: usize,
    len_version: u64,
    blocks: Vec<(usize, u64, Vec<u8>)>,
}

/// What there is to say about a file or directory.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// Its number.
    pub ino: Ino,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes of a file.
    pub len: u64,
    /// Last change, since 1970.
    pub modified: Duration,
}

/// What was asked of the disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Writes past the page cache.
    pub direct_writes: u64,
    /// Writes whose call asked for O_DSYNC; the kernel sends a sync after each.
    pub dsync_writes: u64,
    /// Syncs of files.
    pub file_syncs: u64,
    /// Syncs of directories.
    pub dir_syncs: u64,
    /// Syncs of the whole file system.
    pub fs_syncs: u64,
}

/// The disk.
#[derive(Debug)]
pub struct Device {
    nodes: HashMap<Ino, Node>,
    next_ino: Ino,
    version: u64,
    /// Changes of names that are not durable yet, in order.
    name_ops: Vec<NameOp>,
    /// Goes up with every cut: handles of an older one are dead.
    generation: u64,
    chance: Chance,
    /// Of a hundred writes, how many reach the platter unasked.
    writeback_percent: u64,
    /// Which syncs lie.
    pub lies: Lies,
    /// What was asked so far.
    pub counts: Counts,
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn block_bytes(data: &[u8], block: usize) -> &[u8] {
    let from = (block * BLOCK).min(data.len());
    &data[from..(from + BLOCK).min(data.len())]
}

impl FileNode {
    fn touch(&mut self, from: usize, to: usize, version: u64) {
        if from < to {
            for block in from / BLOCK..=(to - 1) / BLOCK {
                self.dirty.insert(block, version);
            }
        }
    }

    fn set_len(&mut self, len: usize, version: u64) {
        let old = self.current.len();
        if len == old {
            return;
        }
        self.current.resize(len, 0);
        self.len_version = version;
        if len < old {
            self.dirty.split_off(&len.div_ceil(BLOCK));
            self.touch(len / BLOCK * BLOCK, len, version);
        } else {
            self.touch(old, len, version);
        }
    }

    fn snapshot(&self, ino: Ino) -> FileSync {
        FileSync {
            ino,
            len: self.current.len(),
            len_version: self.len_version,
            blocks: self
                .dirty
                .iter()
                .map(|(block, version)| {
                    let bytes = block_bytes(&self.current, *block).to_vec();
                    (*block, *version, bytes)
                })
                .collect(),
        }
    }

    fn make_durable(&mut self, sync: FileSync) {
        if sync.len_version > self.durable_len_version {
            self.durable.resize(sync.len, 0);
            self.durable_len_version = sync.len_version;
        }
        for (block, version, bytes) in sync.blocks {
            self.store(block, version, &bytes);
        }
    }

    /// Puts a block on the platter unless a newer state of it is there, within the durable length.
    fn store(&mut self, block: usize, version: u64, bytes: &[u8]) {
        if self
            .durable_versions
            .get(&block)
            .is_none_or(|v| *v < version)
        {
            let from = block * BLOCK;
            let to = (from + bytes.len()).min(self.durable.len());
            if from < to {
                self.durable[from..to].copy_from_slice(&bytes[..to - from]);
            }
            self.durable_versions.insert(block, version);
        }
        if self.dirty.get(&block) == Some(&version) {
            self.dirty.remove(&block);
        }
    }
}

impl Device {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        let root = Node {
            kind: Kind::Dir(DirNode {
                parent: ROOT,
                ..DirNode::default()
            }),
            modified: now(),
        };
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            next_ino: ROOT + 1,
            version: 0,
            name_ops: Vec::new(),
            generation: 0,
            chance: Chance::new(seed),
            writeback_percent: 0,
            lies: Lies::default(),
            counts: Counts::default(),
        }
    }

    /// How many cuts there were.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        let len = |node: &Node| match &node.kind {
            Kind::File(file) => file.current.len() as u64,
            Kind::Dir(_) => 0,
        };
        self.nodes.values().map(len).sum()
    }

    fn dir(&self, ino: Ino) -> Result<&DirNode> {
        match self.nodes.get(&ino).map(|node| &node.kind) {
            Some(Kind::Dir(dir)) => Ok(dir),
            Some(Kind::File(_)) => Err(Errno::NOTDIR),
            None => Err(Errno::STALE),
        }
    }

    fn file(&self, ino: Ino) -> Result<&FileNode> {
        match self.nodes.get(&ino).map(|node| &node.kind) {
            Some(Kind::File(file)) => Ok(file),
            Some(Kind::Dir(_)) => Err(Errno::ISDIR),
            None => Err(Errno::STALE),
        }
    }

    /// The file, marked as modified, and the number of this change.
    fn change(&mut self, ino: Ino) -> Result<(&mut FileNode, u64)> {
        self.version += 1;
        match self.nodes.get_mut(&ino) {
            Some(node) => match &mut node.kind {
                Kind::File(file) => {
                    node.modified = now();
                    Ok((file, self.version))
                }
                Kind::Dir(_) => Err(Errno::ISDIR),
            },
            None => Err(Errno::STALE),
        }
    }

    /// Its length, kind and time.
    pub fn stat(&self, ino: Ino) -> Result<Stat> {
        let node = self.nodes.get(&ino).ok_or(Errno::STALE)?;
        let (is_dir, len) = match &node.kind {
            Kind::File(file) => (false, file.current.len() as u64),
            Kind::Dir(_) => (true, 0),
        };
        Ok(Stat {
            ino,
            is_dir,
            len,
            modified: node.modified,
        })
    }

    /// What a name leads to.
    pub fn lookup(&self, dir: Ino, name: &str) -> Result<Ino> {
        self.dir(dir)?
            .current
            .get(name)
            .copied()
            .ok_or(Errno::NOENT)
    }

    /// The names in a directory, `.` and `..` first.
    pub fn list(&self, ino: Ino) -> Result<Vec<(String, Ino, bool)>> {
        let dir = self.dir(ino)?;
        let mut names = vec![
            (".".to_owned(), ino, true),
            ("..".to_owned(), dir.parent, true),
        ];
        for (name, ino) in &dir.current {
            names.push((name.clone(), *ino, self.stat(*ino)?.is_dir));
        }
        Ok(names)
    }

    fn apply(&mut self, effects: Vec<(Ino, String, Option<Ino>)>) {
        self.version += 1;
        for (dir, name, target) in &effects {
            if let Some(Node {
                kind: Kind::Dir(node),
                modified,
            }) = self.nodes.get_mut(dir)
            {
                *modified = now();
                match target {
                    Some(ino) => node.current.insert(name.clone(), *ino),
                    None => node.current.remove(name),
                };
            }
            if let Some(Node {
                kind: Kind::Dir(moved),
                ..
            }) = target.and_then(|ino| self.nodes.get_mut(&ino))
            {
                moved.parent = *dir;
            }
        }
        self.name_ops.push(NameOp {
            version: self.version,
            effects,
        });
    }

    /// A new file or directory.
    pub fn create(&mut self, dir: Ino, name: &str, is_dir: bool) -> Result<Ino> {
        if self.dir(dir)?.current.contains_key(name) {
            return Err(Errno::EXIST);
        }
        let ino = self.next_ino;
        self.next_ino += 1;
        let kind = if is_dir {
            Kind::Dir(DirNode {
                parent: dir,
                ..DirNode::default()
            })
        } else {
            Kind::File(FileNode::default())
        };
        let modified = now();
        self.nodes.insert(ino, Node { kind, modified });
        self.apply(vec![(dir, name.to_owned(), Some(ino))]);
        Ok(ino)
    }

    /// Another name for a file.
    pub fn link(&mut self, ino: Ino, dir: Ino, name: &str) -> Result<()> {
        if self.dir(dir)?.current.contains_key(name) {
            return Err(Errno::EXIST);
        }
        self.file(ino)?;
        self.apply(vec![(dir, name.to_owned(), Some(ino))]);
        Ok(())
    }

    /// Takes a name away; its file lives on for those that have it open.
    pub fn remove(&mut self, dir: Ino, name: &str, is_dir: bool) -> Result<()> {
        let ino = self.lookup(dir, name)?;
        match (&self.nodes.get(&ino).ok_or(Errno::STALE)?.kind, is_dir) {
            (Kind::Dir(node), true) if !node.current.is_empty() => return Err(Errno::NOTEMPTY),
            (Kind::File(_), true) => return Err(Errno::NOTDIR),
            (Kind::Dir(_), false) => return Err(Errno::ISDIR),
            _ => {}
        }
        self.apply(vec![(dir, name.to_owned(), None)]);
        Ok(())
    }

    /// Renames, over what has the new name already unless `no_replace`.
    pub fn rename(&mut self, from: (Ino, &str), to: (Ino, &str), no_replace: bool) -> Result<()> {
        let ino = self.lookup(from.0, from.1)?;
        match self.lookup(to.0, to.1) {
            Ok(_) if no_replace => return Err(Errno::EXIST),
            Ok(there) if there == ino => return Ok(()),
            Ok(there) => {
                if let Kind::Dir(node) = &self.nodes.get(&there).ok_or(Errno::STALE)?.kind
                    && !node.current.is_empty()
                {
                    return Err(Errno::NOTEMPTY);
                }
            }
            Err(_) => {
                self.dir(to.0)?;
            }
        }
        self.apply(vec![
            (from.0, from.1.to_owned(), None),
            (to.0, to.1.to_owned(), Some(ino)),
        ]);
        Ok(())
    }

    /// Bytes from a file, fewer at its end.
    pub fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<&[u8]> {
        let data = &self.file(ino)?.current;
        let from = usize::try_from(offset).map_or(data.len(), |from| from.min(data.len()));
        Ok(&data[from..from.saturating_add(len).min(data.len())])
    }

    /// Writes, past the end too.
    pub fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<()> {
        self.counts.writes += 1;
        self.counts.written_bytes += bytes.len() as u64;
        let from = usize::try_from(offset).map_err(|_| Errno::FBIG)?;
        let to = from.checked_add(bytes.len()).ok_or(Errno::FBIG)?;
        if to as u64 > CAPACITY {
            return Err(Errno::NOSPC);
        }
        let unasked = self.chance.percent(self.writeback_percent);
        let (file, version) = self.change(ino)?;
        if to > file.current.len() {
            file.set_len(to, version);
        }
        file.current[from..to].copy_from_slice(bytes);
        file.touch(from, to, version);
        if unasked {
            // As the kernel's own writeback does now and then: one block, and with it the length.
            let block = (to.max(1) - 1) / BLOCK;
            let bytes = block_bytes(&file.current, block).to_vec();
            let end = block * BLOCK + bytes.len();
            if file.durable.len() < end {
                file.durable.resize(end, 0);
            }
            file.store(block, version, &bytes);
        }
        Ok(())
    }

    /// Cuts or grows a file.
    pub fn set_len(&mut self, ino: Ino, len: u64) -> Result<()> {
        if len > CAPACITY {
            return Err(Errno::FBIG);
        }
        let len = usize::try_from(len).map_err(|_| Errno::FBIG)?;
        let (file, version) = self.change(ino)?;
        file.set_len(len, version);
        Ok(())
    }

    /// Zeroes a range, without changing the length.
    pub fn zero(&mut self, ino: Ino, offset: u64, len: u64) -> Result<()> {
        let (file, version) = self.change(ino)?;
        let end = file.current.len();
        let from = usize::try_from(offset).map_or(end, |from| from.min(end));
        let to = usize::try_from(len).map_or(end, |len| from.saturating_add(len).min(end));
        file.current[from..to].fill(0);
        file.touch(from, to, version);
        Ok(())
    }

    /// Begins a sync of a file.
    pub fn begin_file_sync(&mut self, ino: Ino) -> Result<Sync> {
        self.counts.file_syncs += 1;
        let file = self.file(ino)?;
        let files = if self.lies.files {
            Vec::new()
        } else {
            vec![file.snapshot(ino)]
        };
        Ok(Sync { files, names: None })
    }

    /// Begins a sync of a directory's names.
    pub fn begin_dir_sync(&mut self, ino: Ino) -> Result<Sync> {
        self.counts.dir_syncs += 1;
        self.dir(ino)?;
        Ok(Sync {
            files: Vec::new(),
            names: (!self.lies.names).then_some((Some(ino), self.version)),
        })
    }

    /// Begins a sync of everything.
    pub fn begin_fs_sync(&mut self) -> Sync {
        self.counts.fs_syncs += 1;
        let mut files = Vec::new();
        for (ino, node) in &self.nodes {
            if let Kind::File(file) = &node.kind
                && (!file.dirty.is_empty() || file.len_version > file.durable_len_version)
                && !self.lies.files
            {
                files.push(file.snapshot(*ino));
            }
        }
        Sync {
            files,
            names: (!self.lies.names).then_some((None, self.version)),
        }
    }

    /// The sync is done: what it took at its beginning is durable.
    pub fn finish_sync(&mut self, sync: Sync) {
        for one in sync.files {
            if let Some(Node {
                kind: Kind::File(file),
                ..
            }) = self.nodes.get_mut(&one.ino)
            {
                file.make_durable(one);
            }
        }
        if let Some((dir, version)) = sync.names {
            let dirs = dir.map(|dir| BTreeSet::from([dir]));
            self.keep_names(dirs, version);
        }
    }

    /// Makes changes of names durable up to a version: those of some directories, with what came
    /// before in directories that a rename ties to them; or all.
    fn keep_names(&mut self, dirs: Option<BTreeSet<Ino>>, version: u64) {
        let mut kept = vec![false; self.name_ops.len()];
        let all = dirs.is_none();
        let mut wanted = dirs.unwrap_or_default();
        for (at, op) in self.name_ops.iter().enumerate().rev() {
            let touches = all || op.effects.iter().any(|(dir, ..)| wanted.contains(dir));
            if op.version <= version && touches {
                kept[at] = true;
                wanted.extend(op.effects.iter().map(|(dir, ..)| *dir));
            }
        }
        let ops = std::mem::take(&mut self.name_ops);
        for (op, kept) in ops.into_iter().zip(kept) {
            if !kept {
                self.name_ops.push(op);
                continue;
            }
            for (dir, name, target) in op.effects {
                if let Some(Node {
                    kind: Kind::Dir(node),
                    ..
                }) = self.nodes.get_mut(&dir)
                {
                    match target {
                        Some(ino) => node.durable.insert(name, ino),
                        None => node.durable.remove(&name),
                    };
                }
            }
        }
    }

    /// Writes all files out into a real directory, to be looked at.
    pub fn dump(&self, ino: Ino, to: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(to)?;
        for (name, child) in self.dir(ino).map(|dir| &dir.current).into_iter().flatten() {
            match self.nodes.get(child).map(|node| &node.kind) {
                Some(Kind::File(file)) => std::fs::write(to.join(name), &file.current)?,
                Some(Kind::Dir(_)) => self.dump(*child, &to.join(name))?,
                None => {}
            }
        }
        Ok(())
    }
}
