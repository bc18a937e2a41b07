//! Stories on a real cluster: what a user of Holdfast meets, told as tests, and the demo.
//!
//! Everything goes through `kubectl`, `helm`, stock `restic` and the command line of Holdfast, as a user's hands would; no type of the product is
//! used, so that a story also notices when the API changes under its users. The cluster is the test bed's
//! (`holdfast-testbed`); a story has a namespace and a bucket of its own, so stories run side by side.
//!
//! - [`current`]: a cluster and a bucket that were there before, for the demo;
//! - [`holdfast`]: the command line of Holdfast, with what it prints and its exit code;
//! - [`kubectl`]: the cluster as a command line sees it, with waiting for conditions;
//! - [`install`]: image and chart, once a process;
//! - [`page`]: a page of the documentation as a person follows it;
//! - [`story`]: namespace, bucket, storage, clean-up, and what is printed when a story fails;
//! - [`workload`]: applications that hold data;
//! - [`gate`]: troubles of a store for one story alone;
//! - [`tree`]: a directory tree of all sorts of files, and its exact description for comparing;
//! - [`corpus`], [`cost`]: files to measure with, and what runs cost.

#![expect(
    clippy::indexing_slicing,
    reason = "looking up a key in a JSON value gives null when it is absent; it never panics"
)]

pub mod corpus;
pub mod cost;
pub mod current;
pub mod gate;
pub mod holdfast;
pub mod install;
pub mod kubectl;
pub mod page;
pub mod story;
pub mod tree;
pub mod workload;
