//! Range: reading keys.
use crate::context::{self, Context, key_value, number};
use crate::error::{Error, Result};
use crate::pb::{
    RangeRequest, RangeResponse,
    range_request::{SortOrder, SortTarget},
};
use bytes::Bytes;
use std::sync::Arc;
use store::{Entry, Page, Range, Revision};

pub async fn run(context: &Context, request: &RangeRequest) -> Result<RangeResponse> {
    check(request)?;
    let page = context.backend.list(&range(request), at(request), limit(request)).await?;
    // etcd tells the current revision, whichever was read.
    let shown = if at(request).is_some() { context.backend.current_revision() } else { page.revision };
    Ok(RangeResponse { header: context.header(shown), ..answer(request, page) })
}

pub fn check(request: &RangeRequest) -> Result<()> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    let known = SortOrder::try_from(request.sort_order).is_ok() && SortTarget::try_from(request.sort_target).is_ok();
    if known { Ok(()) } else { Err(Error::InvalidSortOption) }
}

pub fn range(request: &RangeRequest) -> Range {
    context::range(&request.key, &request.range_end)
}

/// The revision that is asked for; none: now.
pub fn at(request: &RangeRequest) -> Option<Revision> {
    u64::try_from(request.revision).ok().filter(|revision| *revision > 0).map(Revision::from_u64)
}

/// How many entries the store must give so that the answer can be made; 0: all.
pub fn limit(request: &RangeRequest) -> usize {
    if request.count_only {
        return 1;
    }
    match sorts(request) || filters(request) {
        true => 0,
        false => wanted(request).unwrap_or(0),
    }
}

fn wanted(request: &RangeRequest) -> Option<usize> {
    usize::try_from(request.limit).ok().filter(|limit| *limit > 0)
}

/// Whether the order differs from the store's, which is by key, ascending.
fn sorts(request: &RangeRequest) -> bool {
    match request.sort_target() {
        SortTarget::Key => request.sort_order() == SortOrder::Descend,
        // A target without an order means ascending.
        _ => true,
    }
}

fn filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// The answer out of what the store gave; without a header.
pub fn answer(request: &RangeRequest, page: Page) -> RangeResponse {
    let count = page.count as i64;
    if request.count_only {
        return RangeResponse { count, ..RangeResponse::default() };
    }
    let (mut entries, mut more) = (page.entries, page.more);
    if filters(request) {
        entries.retain(|entry| passes(request, entry));
    }
    if sorts(request) {
        sort(request, &mut entries);
    }
    if let Some(limit) = wanted(request).filter(|limit| *limit < entries.len()) {
        entries.truncate(limit);
        more = true;
    }
    let kvs = entries.iter().map(|entry| {
        let kv = key_value(entry);
        if request.keys_only { crate::mvccpb::KeyValue { value: Bytes::new(), ..kv } } else { kv }
    });
    RangeResponse { header: None, kvs: kvs.collect(), more, count }
}

fn passes(request: &RangeRequest, entry: &Entry) -> bool {
    let inside = |revision: Revision, min: i64, max: i64| {
        (min == 0 || number(revision) >= min) && (max == 0 || number(revision) <= max)
    };
    inside(entry.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && inside(entry.create_revision, request.min_create_revision, request.max_create_revision)
}

fn sort(request: &RangeRequest, entries: &mut [Arc<Entry>]) {
    match request.sort_target() {
        SortTarget::Key => {}
        SortTarget::Version => entries.sort_by_key(|entry| entry.version),
        SortTarget::Create => entries.sort_by_key(|entry| entry.create_revision),
        SortTarget::Mod => entries.sort_by_key(|entry| entry.mod_revision),
        SortTarget::Value => entries.sort_by(|a, b| a.value.cmp(&b.value)),
    }
    if request.sort_order() == SortOrder::Descend {
        entries.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::LeaseId;

    fn entry(key: &'static str, value: &'static str, created: u64, modified: u64) -> Arc<Entry> {
        Arc::new(Entry {
            key: key.into(),
            value: value.into(),
            create_revision: Revision::from_u64(created),
            mod_revision: Revision::from_u64(modified),
            index: 0,
            version: 1,
            lease: Some(LeaseId(9)),
            summary: Default::default(),
        })
    }

    fn page() -> Page {
        let entries = vec![entry("a", "3", 2, 9), entry("b", "1", 3, 5), entry("c", "2", 4, 7)];
        Page { revision: Revision::from_u64(9), entries, count: 3, more: false }
    }

    fn keys(request: &RangeRequest) -> Vec<String> {
        let answer = answer(request, page());
        answer.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
    }

    #[test]
    fn what_is_sorted_or_filtered_needs_all_entries() {
        let plain = RangeRequest { limit: 2, ..Default::default() };
        assert_eq!(limit(&plain), 2);
        assert_eq!(limit(&RangeRequest { sort_target: SortTarget::Mod.into(), ..plain.clone() }), 0);
        assert_eq!(limit(&RangeRequest { sort_order: SortOrder::Ascend.into(), ..plain.clone() }), 2);
        assert_eq!(limit(&RangeRequest { min_mod_revision: 1, ..plain.clone() }), 0);
        assert_eq!(limit(&RangeRequest { count_only: true, ..plain }), 1);
    }

    #[test]
    fn sorting_then_cutting() {
        let by_mod = RangeRequest {
            sort_target: SortTarget::Mod.into(),
            sort_order: SortOrder::Descend.into(),
            limit: 2,
            ..Default::default()
        };
        assert_eq!(keys(&by_mod), ["a", "c"]);
        let answer = answer(&by_mod, page());
        assert!(answer.more && answer.count == 3);
        assert_eq!(
            keys(&RangeRequest { sort_target: SortTarget::Value.into(), ..Default::default() }),
            ["b", "c", "a"]
        );
        assert_eq!(
            keys(&RangeRequest { sort_order: SortOrder::Descend.into(), ..Default::default() }),
            ["c", "b", "a"]
        );
    }

    #[test]
    fn bounds_of_revisions_filter_and_the_count_stays() {
        let request = RangeRequest { min_mod_revision: 6, max_create_revision: 3, ..Default::default() };
        assert_eq!(keys(&request), ["a"]);
        assert_eq!(answer(&request, page()).count, 3);
    }

    #[test]
    fn keys_only_and_count_only() {
        let keys_only = answer(&RangeRequest { keys_only: true, ..Default::default() }, page());
        assert!(keys_only.kvs.iter().all(|kv| kv.value.is_empty() && kv.lease == 9));
        let count = answer(&RangeRequest { count_only: true, ..Default::default() }, page());
        assert_eq!((count.count, count.kvs.len(), count.more), (3, 0, false));
    }

    #[test]
    fn unknown_orders_are_refused() {
        let request = RangeRequest { key: "a".into(), sort_order: 7, ..Default::default() };
        assert!(matches!(check(&request), Err(Error::InvalidSortOption)));
        assert!(matches!(check(&RangeRequest::default()), Err(Error::EmptyKey)));
    }
}
