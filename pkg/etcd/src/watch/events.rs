//! Changes as etcd's events.
use super::request::Order;
use crate::context::{key_value, number};
use crate::mvccpb::{Event, KeyValue, event::EventType};
use crate::pb::WatchResponse;
use prost::Message;
use store::Change;

/// The events that a watch was ordered to tell, in order.
pub fn events<'a>(changes: impl IntoIterator<Item = &'a Change>, order: &Order) -> Vec<Event> {
    let wanted = |change: &&Change| {
        let kind = if change.entry.is_some() { order.puts } else { order.deletes };
        kind && change.revision >= order.not_before
    };
    changes.into_iter().filter(wanted).map(|change| event(change, order.prev_kv)).collect()
}

fn event(change: &Change, prev_kv: bool) -> Event {
    let previous = change.previous.as_ref().filter(|_| prev_kv).map(|entry| key_value(entry));
    let (kind, kv) = match &change.entry {
        Some(entry) => (EventType::Put, key_value(entry)),
        // Of what is deleted only the key is left, and when.
        None => {
            let mod_revision = number(change.revision);
            (EventType::Delete, KeyValue { key: change.key.clone(), mod_revision, ..KeyValue::default() })
        }
    };
    Event { r#type: kind.into(), kv: Some(kv), prev_kv: previous }
}

/// A response cut into such as are no larger than `limit_bytes`, unless one event alone is; all but the last say
/// that more follows.
pub fn fragments(whole: WatchResponse, limit_bytes: usize) -> Vec<WatchResponse> {
    if whole.encoded_len() <= limit_bytes {
        return vec![whole];
    }
    let empty = WatchResponse { events: Vec::new(), fragment: true, ..whole.clone() };
    let (mut pieces, mut piece, mut size) = (Vec::new(), empty.clone(), empty.encoded_len());
    for event in whole.events {
        let length = event.encoded_len() + 8;
        if size + length > limit_bytes && !piece.events.is_empty() {
            pieces.push(std::mem::replace(&mut piece, empty.clone()));
            size = empty.encoded_len();
        }
        size += length;
        piece.events.push(event);
    }
    piece.fragment = false;
    pieces.push(piece);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::WatchCreateRequest;
    use std::sync::Arc;
    use store::{Entry, Revision};

    fn entry(n: u64) -> Arc<Entry> {
        Arc::new(Entry {
            key: "a".into(),
            value: "v".into(),
            create_revision: Revision::from_u64(2),
            mod_revision: Revision::from_u64(n),
            index: 0,
            version: 1,
            lease: None,
            summary: Default::default(),
        })
    }

    fn change(n: u64, entry: Option<Arc<Entry>>, previous: Option<Arc<Entry>>) -> Change {
        Change { revision: Revision::from_u64(n), index: 0, key: "a".into(), entry, previous }
    }

    fn order(request: WatchCreateRequest) -> Order {
        Order::new(&request, Revision::ZERO).unwrap()
    }

    #[test]
    fn a_deletion_has_its_revision_and_what_was_there() {
        let changes = [change(2, Some(entry(2)), None), change(4, None, Some(entry(2)))];
        let told = events(&changes, &order(WatchCreateRequest { prev_kv: true, ..Default::default() }));
        assert_eq!(told[0].prev_kv, None);
        let kv = told[1].kv.as_ref().unwrap();
        assert_eq!((told[1].r#type(), kv.mod_revision, kv.create_revision), (EventType::Delete, 4, 0));
        assert_eq!(told[1].prev_kv.as_ref().unwrap().value, "v");
        assert!(events(&changes, &order(WatchCreateRequest::default())).iter().all(|event| event.prev_kv.is_none()));
    }

    #[test]
    fn filters_and_revisions_to_come() {
        let changes = [change(2, Some(entry(2)), None), change(4, None, Some(entry(2)))];
        let only_puts = WatchCreateRequest { filters: vec![1], ..Default::default() };
        assert_eq!(events(&changes, &order(only_puts)).len(), 1);
        let later = WatchCreateRequest { start_revision: 3, ..Default::default() };
        assert_eq!(events(&changes, &order(later)).len(), 1);
    }

    #[test]
    fn fragments_keep_order_and_size() {
        let event =
            Event { kv: Some(KeyValue { value: vec![7; 100].into(), ..Default::default() }), ..Default::default() };
        let whole = WatchResponse { watch_id: 3, events: vec![event; 10], ..Default::default() };
        let pieces = fragments(whole.clone(), 350);
        assert!(pieces.len() > 3 && pieces.iter().all(|piece| piece.encoded_len() <= 350 && piece.watch_id == 3));
        assert_eq!(pieces.iter().map(|piece| piece.events.len()).sum::<usize>(), 10);
        let more: Vec<bool> = pieces.iter().map(|piece| piece.fragment).collect();
        assert!(!more[more.len() - 1] && more[..more.len() - 1].iter().all(|more| *more));
        assert_eq!(fragments(whole.clone(), 10_000), std::slice::from_ref(&whole));
        assert_eq!(fragments(whole, 1).len(), 10);
    }
}
