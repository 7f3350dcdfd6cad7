//! The Kubernetes object model without any IO: what an object may hold, how it is read, defaulted, checked,
//! patched and printed. Everything here is a pure function over JSON trees, so that built-in kinds and custom
//! resources take one path.
//!
//! Place in the flow: `bytes -> decode -> default -> (patch | apply) -> validate -> bytes`, called by the
//! resource engine of `apiserver`; `selector`, `quantity` and `status` also serve every client-side component.

pub mod apply;
pub mod cel;
pub mod decode;
pub mod default;
pub mod go_json;
pub mod home;
pub mod jsonpath;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod schedule;
pub mod schema;
pub mod selector;
pub mod slice;
pub mod status;
pub mod stored;
pub mod summary;
pub mod table;
pub mod validate;
pub mod warn;

pub use meta::{GroupKind, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use status::Status;
