//! Who takes over a site that is out of reach. Decided by each server for itself from what it sees; a record that is
//! replicated says who did, and its epoch decides between two that were made apart.
use super::{Link, Ownership, Site, Taken};
use std::collections::BTreeMap;

/// The replicated record of the last takeover of one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The site that acts, or did.
    pub by: Site,
    /// One more than that of the record before.
    pub epoch: u64,
}

/// What [`judge`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What components are to be told.
    pub ownership: Ownership,
    /// Records to write before that, by lost site.
    pub write: BTreeMap<Site, Record>,
}

/// Judges which lost sites this one takes over. `silent_s` holds for every other site since how many seconds there has
/// been no contact (none: in contact), `records` the records as this server has them, and `after_s` the shortest time
/// that any object waits.
///
/// Of the sites in contact with each other the first by name takes over, unless a record says that one of them did
/// already. A site that is back is its own again, whatever a record says.
pub fn judge(
    view: &Ownership,
    silent_s: &BTreeMap<Site, Option<u64>>,
    records: &BTreeMap<Site, Record>,
    after_s: u64,
) -> Verdict {
    let reachable = |site: &Site| *site == view.site || silent_s.get(site).is_some_and(Option::is_none);
    let candidates = silent_s.keys().chain([&view.site]).filter(|site| reachable(site));
    let chosen = candidates.min().unwrap_or(&view.site);
    let mut verdict = Verdict { ownership: view.clone(), write: BTreeMap::new() };
    verdict.ownership.others.clear();
    for (site, silent) in silent_s.iter().filter(|(site, _)| **site != view.site) {
        let link = match silent {
            None => Link::Up,
            Some(for_s) => {
                let record = records.get(site);
                let held = record.filter(|record| record.by != *site && reachable(&record.by)).cloned();
                let fresh = || {
                    let epoch = record.map_or(0, |record| record.epoch) + 1;
                    (*for_s >= after_s && *chosen == view.site).then(|| Record { by: view.site.clone(), epoch })
                };
                let taken = held.or_else(|| {
                    let record = fresh()?;
                    verdict.write.insert(site.clone(), record.clone());
                    Some(record)
                });
                Link::Down { for_s: *for_s, taken: taken.map(|Record { by, epoch }| Taken { by, epoch }) }
            }
        };
        verdict.ownership.others.insert(site.clone(), link);
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Claim;
    use proptest::prelude::*;

    fn silence(sites: &[(&str, Option<u64>)]) -> BTreeMap<Site, Option<u64>> {
        sites.iter().map(|(site, silent)| ((*site).into(), *silent)).collect()
    }

    #[test]
    fn the_first_by_name_takes_over_and_writes_a_higher_epoch() {
        let records = BTreeMap::from([("a".into(), Record { by: "a".into(), epoch: 4 })]);
        let silent = silence(&[("a", Some(60)), ("c", None)]);
        let verdict = judge(&Ownership::of("b", "a"), &silent, &records, 30);
        assert_eq!(verdict.write, BTreeMap::from([("a".into(), Record { by: "b".into(), epoch: 5 })]));
        let other = judge(&Ownership::of("c", "a"), &silence(&[("a", Some(60)), ("b", None)]), &records, 30);
        assert!(other.write.is_empty(), "c leaves it to b");
    }

    #[test]
    fn who_took_over_goes_on_while_it_is_in_contact() {
        let records = BTreeMap::from([("a".into(), Record { by: "c".into(), epoch: 2 })]);
        let view = Ownership::of("b", "a");
        let verdict = judge(&view, &silence(&[("a", Some(60)), ("c", None)]), &records, 30);
        assert!(verdict.write.is_empty());
        assert_eq!(verdict.ownership.actor(&claim()), Some("c"));
        let lost_too = judge(&view, &silence(&[("a", Some(60)), ("c", Some(40))]), &records, 30);
        assert_eq!(lost_too.write[&Site::from("a")], Record { by: "b".into(), epoch: 3 });
    }

    #[test]
    fn nothing_is_taken_before_its_time_and_a_site_that_is_back_is_its_own() {
        let records = BTreeMap::from([("a".into(), Record { by: "b".into(), epoch: 1 })]);
        let view = Ownership::of("b", "a");
        assert!(judge(&view, &silence(&[("a", Some(29))]), &BTreeMap::new(), 30).write.is_empty());
        let back = judge(&view, &silence(&[("a", None)]), &records, 30);
        assert_eq!(back.ownership.others[&Site::from("a")], Link::Up);
    }

    fn claim() -> Claim<'static> {
        Claim { home: Some("a"), stay: false, takeover_s: 30, fixed: false }
    }

    proptest! {
        /// However the sites are split, in each part at most one acts on an object, once its records have arrived.
        #[test]
        fn in_each_part_one_site_acts(parts in prop::collection::vec(0u8..3, 2..6), home in 0usize..6) {
            let names: Vec<String> = (0..parts.len()).map(|n| format!("s{n}")).collect();
            let home = home % names.len();
            let view = |me: usize, records: &BTreeMap<Site, Record>| {
                let silent = names.iter().enumerate().filter(|(other, _)| *other != me)
                    .map(|(other, name)| (Site::from(&**name), (parts[other] != parts[me]).then_some(100))).collect();
                judge(&Ownership::of(&names[me], &names[0]), &silent, records, 30)
            };
            let claim = Claim { home: Some(&names[home]), ..claim() };
            for part in 0..3u8 {
                let members: Vec<usize> = (0..names.len()).filter(|n| parts[*n] == part).collect();
                let mut records = BTreeMap::new();
                for me in &members {
                    records.extend(view(*me, &records.clone()).write);
                }
                let acting = members.iter().filter(|me| view(**me, &records).ownership.acts_on(&claim)).count();
                prop_assert_eq!(acting, usize::from(!members.is_empty()));
            }
        }
    }
}
