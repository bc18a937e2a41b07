//! The command line for people.
//!
//! `holdfast backup`, `restore`, `snapshots` and so on speak to a cluster ([`cluster`]); `holdfast repo …` works on a
//! repository directly, with none ([`repo`]). Flags are parsed to plain values and resolved afterwards; data goes to
//! standard output, talk to standard error ([`ui`]); an error is one line of cause and one of what to do
//! ([`failure`]). The exit code is the caller's to hand over; what each means is said here once ([`exit`]).

pub mod cluster;
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
    /// The command makes no sense as it was given, or names something that is not there; nothing was done. The same
    /// as for arguments that cannot be parsed. (`holdfast repo` answers 1 to all that, as restic does.)
    pub const USAGE: u8 = 2;
    /// Done, but some of it is missing: it was named.
    pub const PARTIAL: u8 = 3;
    /// There was nothing to back up.
    pub const NOTHING: u8 = 4;
    /// A command that looks for something to put right has found it.
    pub const FOUND: u8 = 5;
    /// The question was not answered with yes; nothing was changed.
    pub const DECLINED: u8 = 6;
    /// `holdfast repo`: there is no repository at the location.
    pub const NO_REPOSITORY: u8 = 10;
    /// `holdfast repo`: somebody else has a lock on the repository.
    pub const LOCKED: u8 = 11;
    /// `holdfast repo`: no key of the repository opens with the password.
    pub const WRONG_PASSWORD: u8 = 12;
    /// Ended by Ctrl-C. `holdfast repo`: after the lock was released. On a cluster: the run goes on.
    pub const INTERRUPTED: u8 = 130;

    /// Every code with its meaning, as the documentation lists them.
    pub const MEANINGS: [(u8, &str); 11] = [
        (OK, "done, or Succeeded"),
        (FATAL, "failed, or cannot be done: nothing that can be relied on was done"),
        (
            USAGE,
            "the command makes no sense as it was given, or names something that is not there; nothing was done (`holdfast repo`: 1 instead, as restic)",
        ),
        (PARTIAL, "PartiallyFailed: done, but some of it is missing, and was named"),
        (NOTHING, "Skipped: there was nothing to back up"),
        (FOUND, "`status --check` or `doctor` found something to put right"),
        (DECLINED, "the question was not answered with yes; nothing was changed"),
        (NO_REPOSITORY, "`holdfast repo`: there is no repository at the location"),
        (LOCKED, "`holdfast repo`: the repository is locked by somebody else"),
        (WRONG_PASSWORD, "`holdfast repo`: no key of the repository opens with the password"),
        (
            INTERRUPTED,
            "Ctrl-C: the command no longer follows, the run goes on (`holdfast repo`: it was ended, its lock released)",
        ),
    ];
}
