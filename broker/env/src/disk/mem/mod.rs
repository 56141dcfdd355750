//! A file system in memory, for tests: it can crash, run full and fail on demand.

mod crash;
mod fault;
mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use self::file::MemFile;
use super::{DirEntry, DirLock, Disk, DiskFile, OpenMode, Space};
use crate::sim::mix_bytes;

pub use fault::{Fault, FaultError, FaultOp};

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

impl Change {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => {
                let start = usize::try_from(*offset).expect("offsets in memory fit usize");
                let end = start + bytes.len();
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[start..end].copy_from_slice(bytes);
            }
            Change::SetLen(len) => {
                data.resize(
                    usize::try_from(*len).expect("lengths in memory fit usize"),
                    0,
                );
            }
        }
    }
}

#[derive(Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// What was done since the last sync, in order: `durable` + these = `current`.
    pending: Vec<Change>,
}

type InodeRef = Arc<Mutex<Inode>>;

#[derive(Debug, Clone)]
enum Node {
    File(InodeRef),
    Dir,
}

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    /// Directories that were renamed and whose new parent was not synced yet.
    renamed_dirs: Vec<(PathBuf, PathBuf)>,
    locked: BTreeSet<PathBuf>,
    faults: Vec<Fault>,
    /// So many changes go well before the power goes.
    power_left: Option<u64>,
    /// Only changes of paths with this text count.
    power_at: String,
    capacity_bytes: Option<u64>,
    /// Bumped by every crash: handles of an older one answer with errors.
    incarnation: u64,
    file_syncs: u64,
    dir_syncs: u64,
    writes: u64,
    reads: u64,
    /// A hash of all that was asked for.
    trace: u64,
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    /// All of it is durable.
    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }
}

// Contents would drown whatever they are printed with.
impl std::fmt::Debug for Inode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} bytes, {} synced",
            self.current.len(),
            self.durable.len()
        )
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} names", self.names.len())
    }
}

/// A file system in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test thread that panicked leaves the data as it was: good enough to look at.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{}: no such file or directory", path.display()),
    )
}

fn is_root(path: &Path) -> bool {
    path.parent().is_none() || path.as_os_str().is_empty()
}

impl State {
    fn check_fault(&mut self, op: FaultOp, path: &Path) -> io::Result<()> {
        self.trace = mix_bytes(self.trace ^ op as u64, path.as_os_str().as_encoded_bytes());
        let text = path.to_string_lossy();
        match &mut self.power_left {
            Some(0) => return Err(io::Error::other("the power is off")),
            Some(left) if op != FaultOp::Read && text.contains(&self.power_at) => *left -= 1,
            _ => {}
        }
        for fault in &mut self.faults {
            if fault.op != op || fault.times == 0 || !text.contains(&fault.path_contains) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            fault.times -= 1;
            return Err(fault.error.error());
        }
        Ok(())
    }

    fn is_dir(&self, path: &Path) -> bool {
        is_root(path) || matches!(self.names.get(path), Some(Node::Dir))
    }

    fn used_bytes(&self) -> u64 {
        self.names
            .values()
            .map(|node| match node {
                Node::File(inode) => lock(inode).current.len() as u64,
                Node::Dir => 0,
            })
            .sum()
    }

    fn children(names: &BTreeMap<PathBuf, Node>, dir: &Path) -> Vec<(PathBuf, Node)> {
        names
            .iter()
            .filter(|(path, _)| path.parent().is_some_and(|parent| parent == dir))
            .map(|(path, node)| (path.clone(), node.clone()))
            .collect()
    }
}

impl MemDisk {
    /// An empty file system of unlimited size.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans a failure.
    pub fn inject(&self, fault: Fault) {
        lock(&self.state).faults.push(fault);
    }

    /// Forgets all planned failures.
    pub fn clear_faults(&self) {
        lock(&self.state).faults.clear();
    }

    /// Lets the power go after `changes` more writes, syncs and changes of names: every
    /// call fails from then on, until one of the crashes decides what is left; or
    /// [`Self::restart`], when it was only the process that ended.
    pub fn cut_power_after(&self, changes: u64) {
        self.cut_power_at("", changes);
    }

    /// [`Self::cut_power_after`] so many changes of files whose paths contain a text.
    pub fn cut_power_at(&self, path_contains: &str, changes: u64) {
        let mut state = lock(&self.state);
        state.power_left = Some(changes);
        path_contains.clone_into(&mut state.power_at);
    }

    /// Forgets what [`Self::cut_power_after`] planned, if it has not happened yet.
    pub fn keep_power(&self) {
        let mut state = lock(&self.state);
        if state.power_left != Some(0) {
            state.power_left = None;
        }
    }

    /// Whether the power is off.
    pub fn power_is_off(&self) -> bool {
        lock(&self.state).power_left == Some(0)
    }

    /// Limits the sum of all file lengths; writes past it get ENOSPC.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        lock(&self.state).capacity_bytes = capacity_bytes;
    }

    /// Flips the bits of `mask` in the byte at `offset`, on the platter too.
    ///
    /// # Errors
    /// `NotFound` when there is no such file or byte.
    pub fn corrupt(&self, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        let state = lock(&self.state);
        let Some(Node::File(inode)) = state.names.get(path) else {
            return Err(not_found(path));
        };
        let mut inode = lock(inode);
        let at = usize::try_from(offset).map_err(|_| not_found(path))?;
        *inode.current.get_mut(at).ok_or_else(|| not_found(path))? ^= mask;
        if let Some(byte) = inode.durable.get_mut(at) {
            *byte ^= mask;
        }
        Ok(())
    }

    /// A hash of all calls, what they wrote included.
    pub fn trace(&self) -> u64 {
        lock(&self.state).trace
    }

    /// How many file syncs were done (whether or not they failed).
    pub fn file_syncs(&self) -> u64 {
        lock(&self.state).file_syncs
    }

    /// How many directory syncs were done.
    pub fn dir_syncs(&self) -> u64 {
        lock(&self.state).dir_syncs
    }

    /// How many write calls were done.
    pub fn writes(&self) -> u64 {
        lock(&self.state).writes
    }

    /// How many read calls were done.
    pub fn reads(&self) -> u64 {
        lock(&self.state).reads
    }
}

impl Disk for MemDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.check_fault(FaultOp::Name, path)?;
        let missing: Vec<PathBuf> = path
            .ancestors()
            .filter(|ancestor| !is_root(ancestor))
            .map(Path::to_owned)
            .collect();
        for ancestor in missing {
            match state.names.get(&ancestor) {
                Some(Node::File(_)) => {
                    return Err(io::Error::new(
                        io::ErrorKind::AlreadyExists,
                        format!("{} is a file", ancestor.display()),
                    ));
                }
                Some(Node::Dir) => {}
                None => {
                    state.names.insert(ancestor, Node::Dir);
                }
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = lock(&self.state);
        if !state.is_dir(path) {
            return Err(not_found(path));
        }
        Ok(State::children(&state.names, path)
            .into_iter()
            .filter_map(|(child, node)| {
                let name = child.file_name()?.to_str()?.to_owned();
                Some(match node {
                    Node::Dir => DirEntry {
                        name,
                        is_dir: true,
                        len: 0,
                    },
                    Node::File(inode) => DirEntry {
                        name,
                        is_dir: false,
                        len: lock(&inode).current.len() as u64,
                    },
                })
            })
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = lock(&self.state);
        Ok(is_root(path) || state.names.contains_key(path))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = lock(&self.state);
        let inode = match (state.names.get(path), mode) {
            (Some(Node::Dir), _) => {
                return Err(io::Error::new(
                    io::ErrorKind::IsADirectory,
                    format!("{} is a directory", path.display()),
                ));
            }
            (Some(Node::File(_)), OpenMode::CreateNew) => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!("{} exists", path.display()),
                ));
            }
            (Some(Node::File(inode)), _) => inode.clone(),
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(not_found(path)),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                if !path.parent().is_some_and(|parent| state.is_dir(parent)) {
                    return Err(not_found(path));
                }
                state.check_fault(FaultOp::Name, path)?;
                let inode = InodeRef::default();
                state
                    .names
                    .insert(path.to_owned(), Node::File(inode.clone()));
                inode
            }
        };
        Ok(Arc::new(MemFile {
            state: self.state.clone(),
            incarnation: state.incarnation,
            inode,
            path: path.to_owned(),
            writable: mode != OpenMode::Read,
        }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.check_fault(FaultOp::Name, path)?;
        match state.names.get(path) {
            Some(Node::File(_)) => {
                state.names.remove(path);
                Ok(())
            }
            _ => Err(not_found(path)),
        }
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.check_fault(FaultOp::Name, path)?;
        if !state.is_dir(path) {
            return Err(not_found(path));
        }
        state.names.retain(|name, _| !name.starts_with(path));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.check_fault(FaultOp::Name, from)?;
        if !state.names.contains_key(from) {
            return Err(not_found(from));
        }
        if !to.parent().is_some_and(|parent| state.is_dir(parent)) {
            return Err(not_found(to));
        }
        // As POSIX has it.
        if from != to && state.names.contains_key(to) {
            match (state.is_dir(from), state.is_dir(to)) {
                (true, true) if !State::children(&state.names, to).is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                (false, true) => return Err(io::ErrorKind::IsADirectory.into()),
                (true, false) => return Err(io::ErrorKind::NotADirectory.into()),
                _ => {}
            }
        }
        if state.is_dir(from) {
            state.renamed_dirs.push((from.to_owned(), to.to_owned()));
        }
        let moved: Vec<PathBuf> = state
            .names
            .keys()
            .filter(|name| name.starts_with(from))
            .cloned()
            .collect();
        for name in moved {
            let target = match name.strip_prefix(from) {
                Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
                Ok(rest) => to.join(rest),
                Err(_) => continue,
            };
            if let Some(node) = state.names.remove(&name) {
                state.names.insert(target, node);
            }
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.dir_syncs += 1;
        if !state.is_dir(path) {
            return Err(not_found(path));
        }
        state.check_fault(FaultOp::Sync, path)?;
        let renamed: Vec<(PathBuf, PathBuf)> = state
            .renamed_dirs
            .extract_if(.., |(_, to)| to.parent() == Some(path))
            .collect();
        for (from, to) in renamed {
            // What was durable in it still is, under the new name.
            let inside: Vec<PathBuf> = state
                .durable_names
                .keys()
                .filter(|name| name.starts_with(&from) && **name != from)
                .cloned()
                .collect();
            for name in inside {
                if let (Ok(rest), Some(node)) =
                    (name.strip_prefix(&from), state.durable_names.remove(&name))
                {
                    state.durable_names.insert(to.join(rest), node);
                }
            }
        }
        let latest = State::children(&state.names, path);
        state
            .durable_names
            .retain(|name, _| name.parent() != Some(path));
        for (name, node) in latest {
            state.durable_names.insert(name, node);
        }
        Ok(())
    }

    fn sync_filesystem(&self, path: &Path) -> io::Result<()> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.file_syncs += 1;
        state.check_fault(FaultOp::Sync, path)?;
        if !state.is_dir(path) && !state.names.contains_key(path) {
            return Err(not_found(path));
        }
        state.renamed_dirs.clear();
        for node in state.names.values() {
            if let Node::File(inode) = node {
                lock(inode).sync();
            }
        }
        state.durable_names.clone_from(&state.names);
        Ok(())
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let state = lock(&self.state);
        let total_bytes = state.capacity_bytes.unwrap_or(1 << 40);
        Ok(Space {
            free_bytes: total_bytes.saturating_sub(state.used_bytes()),
            total_bytes,
        })
    }

    fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        let mut state = lock(&self.state);
        if !state.is_dir(path) {
            return Err(not_found(path));
        }
        if !state.locked.insert(path.to_owned()) {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("{} is in use by another process", path.display()),
            ));
        }
        Ok(DirLock::new(MemLock {
            state: self.state.clone(),
            incarnation: state.incarnation,
            path: path.to_owned(),
        }))
    }
}

struct MemLock {
    state: Arc<Mutex<State>>,
    incarnation: u64,
    path: PathBuf,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.incarnation == self.incarnation {
            state.locked.remove(&self.path);
        }
    }
}
