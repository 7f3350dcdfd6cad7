//! Endpoints at sites that are out of reach. That they are is this server's view alone: the objects stay as they are.
use super::observe::SERVICE_NAME;
use api::home::{Link, Ownership, SITE};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Leaves out the slices that lost sites wrote, of Services that have a ready endpoint elsewhere. Where nobody else serves,
/// they stay: packets may still find a way.
pub fn in_reach(mut slices: Vec<Arc<EndpointSlice>>, view: &Ownership) -> Vec<Arc<EndpointSlice>> {
    let lost: BTreeSet<&str> =
        view.others.iter().filter(|(_, link)| **link != Link::Up).map(|(site, _)| &**site).collect();
    if !view.marked || lost.is_empty() {
        return slices;
    }
    let is_far = |slice: &EndpointSlice| slice.labels().get(SITE).is_some_and(|site| lost.contains(&**site));
    let of = |slice: &EndpointSlice| (slice.namespace().unwrap_or_default(), slice.labels().get(SERVICE_NAME).cloned());
    let is_ready = |slice: &EndpointSlice| {
        let ready = |conditions: &k8s_openapi::api::discovery::v1::EndpointConditions| conditions.ready != Some(false);
        slice.endpoints.iter().flatten().any(|endpoint| endpoint.conditions.as_ref().is_none_or(ready))
    };
    let served: BTreeSet<_> =
        slices.iter().filter(|slice| !is_far(slice) && is_ready(slice)).map(|slice| of(slice)).collect();
    slices.retain(|slice| !is_far(slice) || !served.contains(&of(slice)));
    slices
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(service: &str, site: &str, ready: bool) -> Arc<EndpointSlice> {
        let labels = json!({(SERVICE_NAME): service, (SITE): site});
        let object = json!({"metadata": {"name": format!("{service}-{site}"), "namespace": "ns", "labels": labels},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.42.0.1"], "conditions": {"ready": ready}}]});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn endpoints_of_a_lost_site_are_left_out_where_others_serve() {
        let all = || {
            vec![
                slice("both", "here", true),
                slice("both", "far", true),
                slice("theirs", "far", true),
                slice("starting", "here", false),
                slice("starting", "far", true),
            ]
        };
        let names =
            |view: &Ownership| in_reach(all(), view).iter().map(|slice| slice.name_any()).collect::<Vec<_>>().join(" ");
        let everything = "both-here both-far theirs-far starting-here starting-far";
        assert_eq!(names(&Ownership::default()), everything);
        assert_eq!(names(&Ownership::of("here", "here").with("far", Link::Up)), everything);
        let cut = Ownership::of("here", "here").with("far", Link::Down { for_s: 0, taken: None });
        assert_eq!(names(&cut), "both-here theirs-far starting-here starting-far");
    }
}
