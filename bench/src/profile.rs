//! Where CPU goes: groups the stacks that `perf script -F comm,tid,ip,sym,dso` prints. Pure but
//! for reading and printing.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use crate::failure::{Failure, Result, while_doing};

/// What the samples are scaled to.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// CPU-seconds of the broker that one unit takes.
    #[arg(long)]
    cpu_s_per_unit: f64,
    /// What a unit is: `GB`, `request`.
    #[arg(long)]
    unit: String,
    /// Symbols listed below the groups.
    #[arg(long, default_value_t = 15)]
    top: usize,
}

/// A group of code, and the parts of symbol names that belong to it.
struct Group {
    name: &'static str,
    symbols: &'static [&'static str],
}

const fn group(name: &'static str, symbols: &'static [&'static str]) -> Group {
    Group { name, symbols }
}

/// Kernel symbols, by their beginnings. The frame nearest to the processor that any group knows
/// decides, and within a frame the first group.
const KERNEL: [Group; 8] = [
    group(
        "kernel copies",
        &[
            "rep_movs",
            "copy_user",
            "_copy_",
            "copyin",
            "copyout",
            "memcpy",
            "__memcpy",
            "csum_partial_copy",
        ],
    ),
    group(
        "scheduler",
        &[
            "schedule",
            "__schedule",
            "finish_task_switch",
            "try_to_wake_up",
            "ttwu_",
            "select_task_rq",
            "pick_next",
            "enqueue_task",
            "dequeue_task",
            "update_curr",
            "sched_",
            "io_schedule",
            "preempt_",
            "default_wake_function",
            "resched",
            "tick_",
            "hrtimer_",
            "update_load",
        ],
    ),
    group(
        "locks and wake-ups",
        &[
            "futex",
            "__futex",
            "do_futex",
            "eventfd",
            "ep_",
            "do_epoll",
            "__wake_up",
            "wake_up",
            "__x64_sys_futex",
            "__x64_sys_epoll",
            "__do_sys_epoll",
            "autoremove_wake",
        ],
    ),
    group(
        "page faults",
        &[
            "exc_page_fault",
            "asm_exc_page_fault",
            "handle_mm_fault",
            "do_user_addr_fault",
            "clear_page",
            "do_anonymous",
        ],
    ),
    group(
        "page cache",
        &[
            "folio",
            "__folio",
            "filemap_",
            "__filemap",
            "generic_perform_write",
            "ext4_da_",
            "ext4_es_",
            "__es_",
            "ext4_block_write",
            "block_write",
            "balance_dirty",
            "write_cache_pages",
            "do_writepages",
            "ext4_writepages",
            "ext4_do_writepages",
            "mark_buffer",
            "create_empty_buffers",
            "workingset",
            "xas_",
            "truncate_",
            "invalidate_",
        ],
    ),
    group(
        "file writes and DSYNC",
        &[
            "ext4_",
            "__ext4",
            "iomap_",
            "__iomap",
            "blk_",
            "__blk",
            "bio_",
            "submit_bio",
            "__submit_bio",
            "blkdev_",
            "jbd2_",
            "virtblk",
            "virtio",
            "virtqueue",
            "vring",
            "vfs_write",
            "vfs_fsync",
            "vfs_iter",
            "do_iter_",
            "vfs_writev",
            "ksys_pwrite",
            "__x64_sys_pwrite",
            "__x64_sys_fdatasync",
            "__x64_sys_fsync",
            "__x64_sys_syncfs",
            "sync_",
            "dd_",
            "__dd",
            "xfs_",
            "iov_iter_",
            "pin_user",
            "gup_",
            "internal_get_user_pages",
        ],
    ),
    group(
        "kernel network",
        &[
            "tcp_",
            "__tcp",
            "ip_",
            "__ip",
            "sock_",
            "__sock",
            "skb_",
            "__skb",
            "inet_",
            "__sys_send",
            "__sys_recv",
            "__x64_sys_send",
            "__x64_sys_recv",
            "net_",
            "__net",
            "loopback",
            "process_backlog",
            "dev_",
            "__dev",
            "napi",
            "__napi",
            "nf_",
            "release_sock",
            "lock_sock",
            "alloc_skb",
            "__alloc_skb",
            "kfree_skb",
            "consume_skb",
            "__local_bh",
            "do_softirq",
            "__do_softirq",
            "handle_softirqs",
        ],
    ),
    group("syscall entry and rest of the kernel", &[""]),
];

/// Our own and library symbols, anywhere in the name.
const USER: [Group; 9] = [
    group("CRC", &["crc"]),
    group("memcpy", &["memmove", "memcpy", "memset", "memcmp", "bcmp"]),
    group(
        "allocator",
        &[
            "mi_",
            "malloc",
            "_int_free",
            "cfree",
            "realloc",
            "__rdl_",
            "__rust_alloc",
            "__rust_dealloc",
            "alloc::raw_vec",
        ],
    ),
    group(
        "locks and wake-ups",
        &[
            "pthread_mutex",
            "pthread_cond",
            "Mutex",
            "RwLock",
            "Condvar",
            "futex",
            "parking_lot",
            "unpark",
            "Waker",
            "waker",
        ],
    ),
    group(
        "codec and validation",
        &[
            "tidemark_wire",
            "tidemark_records",
            "zstd",
            "lz4",
            "snap::",
            "flate2",
            "Decode",
            "Encode",
        ],
    ),
    group("log", &["tidemark_log", "tidemark_env"]),
    group("handlers and partitions", &["tidemark_"]),
    group(
        "async runtime",
        &[
            "tokio",
            "mio::",
            "futures",
            "hashbrown",
            "std::sys",
            "epoll_wait",
        ],
    ),
    group("rest of the broker and libraries", &[""]),
];

/// One frame of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    kernel: bool,
    symbol: String,
}

/// Samples by group and by symbol.
#[derive(Debug, Default)]
pub struct Profile {
    groups: BTreeMap<&'static str, u64>,
    symbols: BTreeMap<String, u64>,
    total: u64,
}

fn parse_frame(line: &str) -> Option<Frame> {
    let (address, rest) = line.trim().split_once(' ')?;
    let (symbol, object) = rest.rsplit_once(" (")?;
    let kernel = object.starts_with("[kernel") || address.starts_with("ffffffff");
    // Names end with the hash of their crate.
    let symbol = match symbol.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 => name,
        _ => symbol,
    };
    Some(Frame {
        kernel,
        symbol: symbol.trim().to_owned(),
    })
}

/// The group of a stack, leaf first.
fn group_of(stack: &[Frame]) -> &'static str {
    let Some(leaf) = stack.first() else {
        return USER[USER.len() - 1].name;
    };
    if !leaf.kernel {
        let known = |g: &&Group| g.symbols.iter().any(|s| leaf.symbol.contains(s));
        return USER.iter().find(known).map_or("", |g| g.name);
    }
    let rest = KERNEL.len() - 1;
    for frame in stack.iter().take_while(|f| f.kernel) {
        let known = |g: &&Group| g.symbols.iter().any(|s| frame.symbol.starts_with(s));
        if let Some(found) = KERNEL[..rest].iter().find(known) {
            return found.name;
        }
    }
    KERNEL[rest].name
}

impl Profile {
    /// Reads all stacks: a line that names the task, lines of frames, an empty line.
    pub fn parse(text: &str) -> Profile {
        let mut profile = Profile::default();
        for sample in text.split("\n\n") {
            let stack: Vec<Frame> = sample
                .lines()
                .filter(|l| l.starts_with(char::is_whitespace))
                .filter_map(parse_frame)
                .collect();
            if let Some(leaf) = stack.first() {
                profile.total += 1;
                *profile.groups.entry(group_of(&stack)).or_default() += 1;
                let symbol = profile.symbols.entry(leaf.symbol.clone()).or_default();
                *symbol += 1;
            }
        }
        profile
    }

    /// A table of groups and one of symbols, in Markdown.
    pub fn table(&self, cpu_s_per_unit: f64, unit: &str, top: usize) -> String {
        let (scale, of) = if cpu_s_per_unit < 0.01 {
            (1e6, "CPU-µs")
        } else {
            (1.0, "CPU-s")
        };
        let line = |name: &str, count: u64| {
            let share = count as f64 / self.total as f64;
            let cost = share * cpu_s_per_unit * scale;
            format!("| {name} | {:.1} % | {cost:.3} |\n", 100.0 * share)
        };
        let ordered = |counts: Vec<(String, u64)>| {
            let mut counts = counts;
            counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
            counts
        };
        let mut out = format!("| group | share | {of} per {unit} |\n|---|--:|--:|\n");
        let groups = self.groups.iter().map(|(n, c)| ((*n).to_owned(), *c));
        for (name, count) in ordered(groups.collect()) {
            out.push_str(&line(&name, count));
        }
        out.push_str(&line("**all**", self.total));
        out.push_str(&format!(
            "\n| symbol | share | {of} per {unit} |\n|---|--:|--:|\n"
        ));
        let symbols = self.symbols.iter().map(|(n, c)| (n.clone(), *c));
        for (name, count) in ordered(symbols.collect()).into_iter().take(top) {
            let short: String = name.chars().take(90).collect();
            out.push_str(&line(&format!("`{}`", short.replace('|', "\\|")), count));
        }
        out.push_str(&format!("\n{} samples\n", self.total));
        out
    }
}

/// Reads standard input, prints the tables.
pub fn run(args: &Args) -> Result<()> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .map_err(while_doing("reading samples"))?;
    let profile = Profile::parse(&String::from_utf8_lossy(&bytes));
    if profile.total == 0 {
        return Err(Failure::Unreachable("perf took no samples".into()));
    }
    let text = profile.table(args.cpu_s_per_unit, &args.unit, args.top);
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(while_doing("printing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: &str = "\
net-0 12
\tffffffff81638477 kmem_cache_alloc_noprof ([kernel.kallsyms])
\tffffffff817a65e3 __es_insert_extent ([kernel.kallsyms])
\tffffffff817aa278 ext4_buffered_write_iter ([kernel.kallsyms])
\t           f8350 __GI___libc_write (/usr/lib/libc.so.6)

net-0 12
\tffffffff81638477 kmem_cache_alloc_noprof ([kernel.kallsyms])
\tffffffff81638478 tcp_sendmsg_locked ([kernel.kallsyms])

wal 13
\t          6adc30 crc_fast::crc32_iscsi_calculator::h0123456789abcdef (/x/tidemark)
\t          6adc31 tidemark_records::validate (/x/tidemark)

wal 13
\tffffffff821ef691 do_syscall_64 ([kernel.kallsyms])
";

    #[test]
    fn the_nearest_known_frame_decides() {
        let profile = Profile::parse(SAMPLES);
        assert_eq!(profile.total, 4);
        let of = |name: &str| profile.groups.get(name).copied().unwrap_or_default();
        assert_eq!(of("page cache"), 1);
        assert_eq!(of("kernel network"), 1);
        assert_eq!(of("CRC"), 1);
        assert_eq!(of("syscall entry and rest of the kernel"), 1);
        assert_eq!(profile.symbols["crc_fast::crc32_iscsi_calculator"], 1);
    }

    #[test]
    fn costs_add_up_to_a_unit() {
        let table = Profile::parse(SAMPLES).table(2.0, "GB", 1);
        assert!(table.contains("| CRC | 25.0 % | 0.500 |"), "{table}");
        assert!(table.contains("| **all** | 100.0 % | 2.000 |"), "{table}");
        let small = Profile::parse(SAMPLES).table(80e-6, "request", 1);
        assert!(
            small.contains("CPU-µs per request") && small.contains("80.000"),
            "{small}"
        );
    }
}
