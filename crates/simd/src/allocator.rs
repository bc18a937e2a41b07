//! Advice to the system's allocator.

/// Pieces of memory from this size on (bytes) go back to the system when they are freed.
const LARGE: i32 = 1 << 20;

/// Has large pieces of freed memory returned to the system at once. To be called before threads are started.
///
/// glibc raises its limit with the first large piece that is freed, up to 32 MiB (mallopt(3), `M_MMAP_THRESHOLD`): after a
/// key derivation, whose table is that large, packs and buffers would be cut from heaps that keep up to twice as much
/// of what is freed, for each thread. It doubled the peak of a check. Elsewhere than with glibc this does nothing.
pub fn give_back_early() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code, reason = "a call of the C library")]
    // SAFETY: mallopt changes a setting of the allocator and touches no memory that was handed out.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = LARGE;
}

/// Returns to the system what is free between pieces of memory that are in use. To be called after much was freed of
/// what was taken in small pieces: as long as a single later piece is in use, glibc keeps it all (`malloc_trim(3)`).
/// Elsewhere than with glibc this does nothing.
pub fn give_back_now() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code, reason = "a call of the C library")]
    // SAFETY: malloc_trim touches no memory that was handed out, and may be called by any thread.
    let _ = unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    /// Resident bytes of this process.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn freed_memory_is_returned() {
        use std::hint::black_box;

        super::give_back_early();
        let piece = |length: usize| black_box(vec![1_u8; length]);
        // What raises the limit otherwise.
        drop(piece(30 << 20));
        let before = resident();
        let mut pieces: Vec<_> = (0..6).map(|_| piece(8 << 20)).collect();
        assert!(resident() > before + (45 << 20));
        // The last one stays and would hold the others in a heap.
        let last = pieces.pop();
        drop(pieces);
        assert!(resident() < before + (16 << 20), "{} of {}", resident(), before);
        drop(last);
        // Small pieces stay because of those between them, until they are asked back.
        let mut small: Vec<_> = (0..400).map(|_| Some(piece(100 << 10))).collect();
        let before = resident();
        for (number, piece) in small.iter_mut().enumerate() {
            if number % 20 != 0 {
                *piece = None;
            }
        }
        let held = resident();
        super::give_back_now();
        assert!(resident() + (30 << 20) < before, "{} of {held} of {before}", resident());
        drop(small);
    }
}
