//! The operator: one reconciler per kind, planning, status, sweeping. Holds no data path and never opens a
//! repository; all its state is in objects, Jobs and the bucket, so that it can be killed at any moment.
//!
//! A reconciler is a folder of five files: `dereference` (the only reader), `validate` (spec and facts into one
//! plan value, pure), `build` (plan into objects, pure), `apply` (the only writer), `status` (what came back
//! into conditions, pure). What several of them need is in [`jobs`] (runner Jobs), [`access`] (how a repository
//! is reached), [`sts`] (keys for one run) and [`kubernetes`] (how objects are read and written). [`metrics`] tell
//! Prometheus of all of it.

pub mod access;
pub mod backup;
pub mod context;
pub mod controllers;
pub mod errors;
pub mod events;
pub mod health;
pub mod http;
pub mod jobs;
pub mod kubernetes;
pub mod leader;
pub mod metrics;
pub mod queue;
pub mod quiesce;
pub mod repository;
pub mod restore;
pub mod runs;
pub mod settings;
pub mod snapshot;
pub mod startup;
pub mod storage;
pub mod sts;
pub mod sweep;
pub mod usage;
pub mod volumes;

pub use context::Ctx;
pub use settings::Options;
pub use startup::{StartError, run};
