//! Lock files: who uses the repository, and whether others must stay out.

use serde::{Deserialize, Serialize};

use super::time::OffsetTime;

/// A lock as its file holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lock {
    /// When it was made or last refreshed, by its holder's clock.
    pub time: OffsetTime,
    /// Whether nobody else may hold a lock.
    #[serde(default)]
    pub exclusive: bool,
    /// The holder's machine.
    #[serde(default)]
    pub hostname: String,
    /// The holder's user.
    #[serde(default)]
    pub username: String,
    /// The holder's process id.
    #[serde(default)]
    pub pid: u32,
    /// The holder's user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The holder's group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// What only Holdfast writes and reads; other clients pass it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holdfast: Option<LockExtra>,
}

/// Holdfast's part of a lock: enough to prove later that its holder is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockExtra {
    /// The cluster the Job runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The Job's uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_uid: Option<String>,
    /// Boot id and process namespace of the holder: only there does its process id mean anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}
