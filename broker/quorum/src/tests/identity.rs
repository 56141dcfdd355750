//! What a data directory says of itself.

use std::path::Path;

use tidemark_env::disk::{Disk, MemDisk, write_file_atomic};
use tidemark_wire::Uuid;

use crate::{DirectoryIdentity, IdentityError};

#[test]
fn identity_files_of_kafkas_format_are_read() {
    let disk = MemDisk::new();
    let write = |text: &str| {
        disk.create_dir_all(Path::new("/k")).unwrap();
        write_file_atomic(&disk, Path::new("/k/meta.properties"), text.as_bytes()).unwrap();
        DirectoryIdentity::read(&disk, Path::new("/k"))
    };
    let id = Uuid([5; 16]);
    let text = format!(
        "#\n#Mon Jan 01 00:00:00 UTC 2024\nnode.id=3\ndirectory.id={id}\nversion=1\ncluster.id={id}\n"
    );
    let identity = write(&text).unwrap().unwrap();
    assert_eq!(
        (identity.node_id, identity.cluster_id, identity.directory_id),
        (3, id, id)
    );
    assert!(matches!(
        write(&text.replace("version=1", "version=2")),
        Err(IdentityError::Newer { version: 2, .. })
    ));
    for bad in [
        "",
        "version=1",
        &text.replace("node.id=3", "node.id=x"),
        &text.replace("cluster.id", "cluster"),
    ] {
        assert!(
            matches!(write(bad), Err(IdentityError::Invalid { .. })),
            "{bad}"
        );
    }
}
