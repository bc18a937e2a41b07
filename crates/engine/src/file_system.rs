//! Which kernel keeps a file system: this one alone, or a server that others use too.

use std::path::Path;

/// Types (Linux, `statfs(2)`) of one machine alone: ext2 to ext4, XFS, btrfs, tmpfs, ZFS, F2FS, bcachefs, overlayfs. Not those
/// that several machines share, nor those that programs make up (FUSE): they may answer from memory, and by another clock.
const OF_ONE_MACHINE: [u32; 8] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x2FC1_2FC1, 0xF2F5_2010, 0xCA45_1A4E, 0x794C_7630];

/// Whether this kernel alone keeps what is at `path`: nobody can see an older state of it, and its times are of this machine's
/// clock. No where nobody can tell.
pub(crate) fn is_of_one_machine(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| {
        // The type's width differs between architectures.
        u32::try_from(found.f_type).is_ok_and(|kind| OF_ONE_MACHINE.contains(&kind))
    })
}
