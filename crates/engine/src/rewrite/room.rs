//! Room for what is told of a snapshot, path by path. Its directories may name each other, so that it has more paths than any memory
//! holds.

use std::path::Path;

/// Room for so many paths, and so many bytes of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    paths: usize,
    bytes: usize,
}

impl Default for Room {
    /// What fits easily beside an index; a thousand times of what anybody reads.
    fn default() -> Self {
        Self { paths: 100_000, bytes: 64 << 20 }
    }
}

impl Room {
    /// Takes the room for a path, if there is enough.
    pub(crate) fn take(&mut self, path: &Path) -> bool {
        let left = self.paths.checked_sub(1).zip(self.bytes.checked_sub(path.as_os_str().len()));
        if let Some((paths, bytes)) = left {
            *self = Self { paths, bytes };
        }
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_many_paths_nor_long_ones_take_more_than_there_is() {
        let mut room = Room { paths: 3, bytes: 10 };
        assert!(room.take(Path::new("12345678")));
        assert!(!room.take(Path::new("123")), "too long");
        assert!(room.take(Path::new("12")) && room.take(Path::new("")));
        assert!(!room.take(Path::new("")), "too many");
    }
}
