//! Container logs in CRI's format: `<time> <stream> <tag> <text>` a line, rotated by the agent.
mod line;
mod read;
mod rotate;

pub use read::{Options, follow, tail_text};
pub use rotate::{Rotation, rotate_all};
