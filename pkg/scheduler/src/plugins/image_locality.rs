//! Prefers nodes that already have the images, the more the more widely they are spread, so that one node does not
//! attract everything.
use crate::cluster::Cluster;
use crate::framework::{MAX_SCORE, Normalize, Score, Scorer};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// Images below this do not count.
const MIN_BYTES: i64 = 23 << 20;
/// What one container's image counts for at most.
const MAX_BYTES_A_CONTAINER: i64 = 1000 << 20;

pub struct ImageLocality;

impl Score for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Scorer<'a>> {
        let spec = pod.spec()?;
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let count = containers.clone().count() as i64;
        let total = cluster.len() as f64;
        let images: Vec<(String, f64)> = containers
            .filter_map(|container| Some(normalized(container.image.as_deref()?)))
            .filter_map(|name| match cluster.nodes_with_image(&name) {
                0 => None,
                nodes => Some((name, nodes as f64 / total)),
            })
            .collect();
        if images.is_empty() {
            return None;
        }
        let max = MAX_BYTES_A_CONTAINER * count;
        let score = move |node: &NodeInfo| {
            let bytes = |(name, spread): &(String, f64)| {
                node.images.get(name.as_str()).map_or(0, |size| (*size as f64 * spread) as i64)
            };
            let sum: i64 = images.iter().map(bytes).sum();
            MAX_SCORE * (sum.clamp(MIN_BYTES, max) - MIN_BYTES) / (max - MIN_BYTES)
        };
        Some(Scorer { score: Box::new(score), normalize: Normalize::AsIs })
    }
}

/// A name without a tag means `latest`.
fn normalized(image: &str) -> String {
    let tagged = image.rfind(':') > image.rfind('/');
    if tagged { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use serde_json::json;

    #[test]
    fn nodes_with_the_image_are_preferred() {
        let mut cluster = Cluster::default();
        let images = json!({"status": {"images": [{"names": ["web:latest"], "sizeBytes": 1_000_000_000}]}});
        cluster.set_node(testing::node("n1", images));
        cluster.set_node(testing::node("n2", json!({})));
        let pod = testing::pod("p", json!({}), json!({}));
        let scorer = ImageLocality.prepare(&pod, &cluster).unwrap();
        let score = |name: &str| (scorer.score)(cluster.node(name).unwrap());
        assert_eq!((score("n1"), score("n2")), (46, 0));
    }

    #[test]
    fn names() {
        assert_eq!(normalized("web"), "web:latest");
        assert_eq!(normalized("localhost:5000/web"), "localhost:5000/web:latest");
        assert_eq!(normalized("web:1"), "web:1");
    }
}
