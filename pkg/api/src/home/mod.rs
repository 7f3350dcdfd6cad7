//! Which site acts on what. Every object has a home, and home's controllers and scheduler alone act on it; when home has
//! been out of reach for longer than the object allows, one reachable site takes over. Pure: whoever follows the other
//! servers publishes an [`Ownership`], and components ask it about a [`Claim`].

mod claim;
mod ownership;
mod takeover;

pub use claim::{Claim, check_annotations};
pub use ownership::{Link, Ownership, Standing, Taken};
pub use takeover::{Record, Verdict, judge};

/// A site's name: a DNS label.
pub type Site = std::sync::Arc<str>;

/// Annotation: the site that acts on the object. None: the site that founded the cluster.
pub const HOME: &str = "eyot.dev/home";
/// Label of nodes, and of objects that each site writes for itself.
pub const SITE: &str = "eyot.dev/site";
/// Upstream's label for the same idea; nodes that have none get their site's name.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Annotation: `"true"` forbids takeover of an object, `"false"` allows it where the kind's default forbids it.
pub const STAY: &str = "eyot.dev/stay";
/// Annotation: seconds that home may be out of reach before another site takes over.
pub const TAKEOVER_SECONDS: &str = "eyot.dev/takeover-seconds";
/// Annotation of an object or a namespace: [`CONSISTENCY_HOME`] or nothing.
pub const CONSISTENCY: &str = "eyot.dev/consistency";
/// Writes go to the home server, or are refused while it is away.
pub const CONSISTENCY_HOME: &str = "home";
/// Annotation of pods: how often one that fitted nowhere was handed to another site.
pub const HANDOVERS: &str = "eyot.dev/handovers";

/// Seconds before takeover where the object does not say.
pub const DEFAULT_TAKEOVER_S: u64 = 300;
