//! What a client wants to watch, in the store's terms.
use crate::context;
use crate::pb::{WatchCreateRequest, watch_create_request::FilterType};
use bytes::Bytes;
use store::{Range, Revision, WatchFrom};

/// A watch as it was ordered.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub range: Range,
    pub from: WatchFrom,
    /// What is older is not told: the client named a revision that is yet to come.
    pub not_before: Revision,
    pub puts: bool,
    pub deletes: bool,
    pub prev_kv: bool,
    pub progress_notify: bool,
    pub fragment: bool,
}

impl Order {
    /// None: the range is empty, which etcd refuses.
    pub fn new(request: &WatchCreateRequest, current: Revision) -> Option<Self> {
        // No key means the first one that there can be.
        let key = if request.key.is_empty() { Bytes::from_static(&[0]) } else { request.key.clone() };
        let range = context::range(&key, &request.range_end);
        if !range.end.is_empty() && range.end <= range.start {
            return None;
        }
        let from = from(request.start_revision, current);
        let not_before = u64::try_from(request.start_revision).unwrap_or(0);
        let wants = |unwanted: FilterType| !request.filters().any(|filter| filter == unwanted);
        Some(Self {
            range,
            from,
            not_before: Revision::from_u64(not_before),
            puts: wants(FilterType::Noput),
            deletes: wants(FilterType::Nodelete),
            prev_kv: request.prev_kv,
            progress_notify: request.progress_notify,
            fragment: request.fragment,
        })
    }
}

/// `start_revision` is the first revision that is wanted. kube-apiserver starts at a resourceVersion + 1, which is odd
/// and so no revision of ours: then the one before says where to begin, and whose history is meant.
fn from(start_revision: i64, current: Revision) -> WatchFrom {
    let Ok(start @ 1..) = u64::try_from(start_revision) else { return WatchFrom::Now };
    if start > current.get() {
        return WatchFrom::After(current);
    }
    match start % 2 {
        1 if start > 1 => WatchFrom::After(Revision::from_u64(start - 1)),
        _ => WatchFrom::At(Revision::from_u64(start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(start_revision: i64) -> WatchCreateRequest {
        WatchCreateRequest { key: "a".into(), start_revision, ..Default::default() }
    }

    #[test]
    fn where_a_watch_begins() {
        let current = Revision::new(5, 1);
        let from = |start: i64| Order::new(&create(start), current).unwrap().from;
        let (old, now) = (Revision::new(4, 1), current.get() as i64);
        assert_eq!(from(0), WatchFrom::Now);
        assert_eq!(from(1), WatchFrom::At(Revision::from_u64(1)));
        assert_eq!(from(old.get() as i64), WatchFrom::At(old));
        assert_eq!(from(old.get() as i64 + 1), WatchFrom::After(old));
        assert_eq!(from(now + 1), WatchFrom::After(current));
        let future = Order::new(&create(now + 5000), current).unwrap();
        assert_eq!((future.from, future.not_before.get()), (WatchFrom::After(current), now as u64 + 5000));
    }

    #[test]
    fn ranges_and_filters() {
        let all = WatchCreateRequest { range_end: Bytes::from_static(&[0]), ..Default::default() };
        let order = Order::new(&all, Revision::ZERO).unwrap();
        assert!(order.range.contains(b"\xff") && order.puts && order.deletes);
        let empty = WatchCreateRequest { key: "b".into(), range_end: "a".into(), ..Default::default() };
        assert_eq!(Order::new(&empty, Revision::ZERO), None);
        let no_puts = WatchCreateRequest { filters: vec![FilterType::Noput.into()], ..create(0) };
        let order = Order::new(&no_puts, Revision::ZERO).unwrap();
        assert!(!order.puts && order.deletes);
    }
}
