//! What follows from sites for objects that were there before: nodes say where they stand, and what is a part of an object
//! belongs where the object does.
mod node;
mod part;

pub(crate) use node::NodeSite;
pub(crate) use part::Parts;
