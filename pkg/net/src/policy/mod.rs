//! NetworkPolicy (networking.k8s.io/v1): `observe` reads policies, namespaces and pods into the `model`, `render`
//! writes that into the node's ruleset, so that Services and policies change in one transaction.
//!
//! A pod that no policy selects costs nothing. One that is selected costs an element of a map, whose value is the chain
//! of its profile: the policies that select it. Pods of one profile share the chain, and who may speak to them is in
//! sets of addresses, one a selector, that all profiles share.

pub mod model;
pub mod observe;
pub mod render;
