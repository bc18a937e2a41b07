//! What follows from the objects around a claim: who uses it, where it can be mounted, who can read it. Pure:
//! nothing here asks the API server, and nothing decides whether a claim is saved or restored.

pub mod claim;
pub mod consumers;
pub mod identity;
pub mod placement;

pub use claim::{Binding, ClaimView};
pub use consumers::{active_pods, uses_claim};
pub use identity::{Access, choose_identity};
pub use placement::{Moving, NodeStates, Surroundings, node_name, place, place_writer, stay};
