//! The world behind seams: clock, entropy, tasks, sockets and disks.
