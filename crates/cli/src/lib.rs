//! The command line for people.
//!
//! Today it is `holdfast repo …`: working on a repository directly, with no cluster. Flags are parsed to plain
//! values and resolved afterwards ([`repo`]); data goes to standard output, talk to standard error ([`ui`]); an
//! error is one line of cause and one of what to do ([`failure`]). The exit code is the caller's to hand over.

pub mod failure;
pub mod repo;
pub mod text;
pub mod ui;

/// Exit codes of the command line.
pub mod exit {
    /// All of it was done.
    pub const OK: u8 = 0;
    /// Nothing, or nothing that can be relied on, was done.
    pub const FATAL: u8 = 1;
    /// Done, but some files could not be handled; they were named on standard error.
    pub const PARTIAL: u8 = 3;
    /// Ended by Ctrl-C, after the lock was released.
    pub const INTERRUPTED: u8 = 130;
}
