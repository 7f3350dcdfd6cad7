//! Which sites there are and how this server stands with them, for all that act: whose objects are whose, who has taken over
//! whom, and which numbers are this server's to give away.
use super::contact::Contacts;
use super::members::Spec;
use super::register::Register;
use crate::site::Site;
use api::home::{Ownership, Site as SiteName};
use api::home::{Record, judge};
use api::slice::{Grant, Numbers, Share, Spans};
use apiserver::Sites;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Replica, Store};
use sync::Member;
use tokio::sync::watch;

/// On a Server object, with the name of a site behind it: that site acts, or acted, for this server's while it is lost, and
/// the epoch of that. Each site writes its own, so that records which were made apart are all there after a merge, and the
/// highest epoch counts; of two that are the same, the first site by name.
pub const TAKEOVER: &str = "takeover.eyot.dev/";
/// No object waits for less before its site is taken over.
const TAKEOVER_S: u64 = 20;
/// Nothing is entrusted to a site of which nothing came for so long: it tells how far it is every five seconds.
const QUIET: Duration = Duration::from_secs(10);
/// How often contacts are judged.
const JUDGE: Duration = Duration::from_secs(1);
/// Seconds of silence are told in such steps: nobody needs more, and every step wakes all that act.
const STEP_S: u64 = 5;

/// A member with what concerns its site.
#[derive(Clone, Debug)]
pub struct Known {
    pub member: Member,
    pub grant: Option<Numbers>,
    pub takeover: Option<Record>,
    /// Public keys, in PEM, of the service account tokens that it issues.
    pub keys: Vec<String>,
    /// The certificate of its intermediate CA, and those between it and the root, in PEM.
    pub authority: String,
    /// Numbers that it can give to servers that it admits; none: it has told of none.
    pub numbers: Option<Spans>,
}

/// A member of which nothing more is known.
pub fn bare(member: Member) -> Known {
    Known { member, grant: None, takeover: None, keys: Vec::new(), authority: String::new(), numbers: None }
}

/// Reads what a Server object says of its slice and of who acts for it.
pub fn known(member: Member, spec: &Spec, annotations: &BTreeMap<String, String>) -> Known {
    let grant = Grant {
        service_ips: spec.service_ips.clone(),
        node_ports: spec.node_ports.clone(),
        pod_cidrs: spec.pod_cidrs.clone(),
    };
    let granted = !grant.service_ips.is_empty() || !grant.node_ports.is_empty() || !grant.pod_cidrs.is_empty();
    let grant = granted.then(|| grant.numbers());
    let grant = grant.and_then(|numbers| {
        numbers.inspect_err(|error| tracing::warn!(server = member.name, %error, "the slice of a server")).ok()
    });
    let taken = annotations
        .iter()
        .filter_map(|(key, epoch)| Some(Record { by: key.strip_prefix(TAKEOVER)?.into(), epoch: epoch.parse().ok()? }));
    let takeover = taken.reduce(later);
    let numbers = spec.numbers.as_ref().and_then(|ranges| {
        let numbers = api::slice::ranges(ranges);
        numbers.inspect_err(|error| tracing::warn!(server = member.name, %error, "the numbers of a server")).ok()
    });
    let (keys, authority) = (spec.service_account_keys.clone(), spec.authority.clone());
    Known { member, grant, takeover, keys, authority, numbers }
}

pub struct Service {
    pub site: Site,
    pub whole: Numbers,
    pub store: Arc<Store>,
    pub contacts: Arc<Contacts>,
    pub known: watch::Receiver<Vec<Known>>,
    ownership: watch::Sender<Ownership>,
    shares: watch::Sender<Share>,
}

impl Service {
    /// The service, and what everything that acts watches.
    pub fn new(
        site: Site,
        whole: Numbers,
        store: Arc<Store>,
        contacts: Arc<Contacts>,
        known: watch::Receiver<Vec<Known>>,
    ) -> (Self, Sites) {
        let (ownership, shares) = (watch::Sender::new(Ownership::default()), watch::Sender::new(Share::default()));
        let sites = Sites { ownership: ownership.subscribe(), shares: shares.subscribe(), ..Sites::default() };
        let service = Self { site, whole, store, contacts, known, ownership, shares };
        service.look(Instant::now());
        (service, sites)
    }

    /// Follows members and contacts, and writes down takeovers where anything here acts (none: nothing does), until it is
    /// dropped.
    pub async fn run(self, register: Option<Register>) {
        let mut known = self.known.clone();
        loop {
            known.mark_unchanged();
            let write = self.look(Instant::now());
            for (site, record) in write {
                if let Some(register) = &register {
                    self.write_down(register, &site, &record).await;
                }
            }
            // A new member's site at once: until it is known, its objects are taken for nobody's, which are the founder's.
            if let Ok(Err(_)) = tokio::time::timeout(JUDGE, known.changed()).await {
                return;
            }
        }
    }

    /// Judges once; returns the takeovers to write down.
    fn look(&self, now: Instant) -> BTreeMap<SiteName, Record> {
        self.contacts.observe(&self.store.vector(), now);
        let known = self.known.borrow().clone();
        let share = share(&known, self.site.number, &self.whole);
        self.shares.send_if_modified(|old| std::mem::replace(old, share.clone()) != share);
        let (silent_s, records) = (self.silences(&known, now), records(&known));
        let verdict = judge(&view(&self.site, &known, &|member| self.up(member, now)), &silent_s, &records, TAKEOVER_S);
        let told = Ownership { quiet: self.quiet(&known, now), ..verdict.ownership };
        self.ownership.send_if_modified(|old| std::mem::replace(old, told.clone()) != told);
        verdict.write
    }

    fn up(&self, member: &Member, now: Instant) -> bool {
        member.actor.is_some_and(|actor| self.contacts.is_up(actor, now))
    }

    /// For each other site, how long none of its servers has been heard; none: one is there.
    fn silences(&self, known: &[Known], now: Instant) -> BTreeMap<SiteName, Option<u64>> {
        let mut all = BTreeMap::new();
        for Known { member, .. } in known.iter().filter(|known| known.member.site != self.site.site) {
            let silence = member.actor.map_or(Duration::ZERO, |actor| self.contacts.silence(actor, now));
            let silent = (!self.up(member, now)).then(|| silence.as_secs() / STEP_S * STEP_S);
            let site = all.entry(SiteName::from(&*member.site)).or_insert(silent);
            *site = (*site).min(silent);
        }
        all
    }

    /// Sites none of whose servers has been heard lately.
    fn quiet(&self, known: &[Known], now: Instant) -> BTreeSet<SiteName> {
        let heard = |member: &Member| member.actor.is_some_and(|actor| self.contacts.silence(actor, now) < QUIET);
        let heard: BTreeSet<&str> =
            known.iter().filter(|known| heard(&known.member)).map(|known| &*known.member.site).collect();
        let sites = known.iter().map(|known| &*known.member.site);
        sites.filter(|site| *site != self.site.site && !heard.contains(site)).map(SiteName::from).collect()
    }

    /// The record goes onto the first server of the lost site.
    async fn write_down(&self, register: &Register, site: &SiteName, record: &Record) {
        let known = self.known.borrow().clone();
        let Some(first) = known.iter().find(|known| *known.member.site == **site) else { return };
        let (key, epoch) = (format!("{TAKEOVER}{}", record.by), record.epoch.to_string());
        match register.patch(&first.member.name, &json!({"metadata": {"annotations": {key: epoch}}})).await {
            Ok(()) => tracing::warn!(%site, epoch = record.epoch, "acting for a site that is out of reach"),
            Err(error) => tracing::debug!(%site, %error, "writing down a takeover"),
        }
    }
}

/// Of two records of one site's takeover, the one that counts.
fn later(a: Record, b: Record) -> Record {
    let first = |record: &Record| (std::cmp::Reverse(record.epoch), record.by.clone());
    if first(&a) <= first(&b) { a } else { b }
}

fn records(known: &[Known]) -> BTreeMap<SiteName, Record> {
    let mut all: BTreeMap<SiteName, Record> = BTreeMap::new();
    for Known { member, takeover, .. } in known {
        let Some(takeover) = takeover else { continue };
        let record = all.entry((*member.site).into()).or_insert_with(|| takeover.clone());
        *record = later(record.clone(), takeover.clone());
    }
    all
}

/// What this server is, before its contacts are judged.
fn view(site: &Site, known: &[Known], up: &dyn Fn(&Member) -> bool) -> Ownership {
    let first = known.iter().map(|known| &known.member).min_by_key(|member| member.number);
    let founder = first.map_or(&site.site, |member| &member.site);
    let acts = |member: &Member| member.site == site.site && member.number < site.number && up(member);
    Ownership {
        marked: site.several || known.len() > 1,
        passive: known.iter().any(|known| acts(&known.member)),
        ..Ownership::of(&site.site, founder)
    }
}

/// The numbers of one server: its grant, or for whoever has none what nobody was granted.
fn share(known: &[Known], number: u16, whole: &Numbers) -> Share {
    if known.len() < 2 {
        return Share::default();
    }
    let own = known.iter().find(|known| known.member.number == number).and_then(|known| known.grant.as_ref());
    let others: Vec<Numbers> =
        known.iter().filter(|known| known.member.number != number).filter_map(|known| known.grant.clone()).collect();
    Share::of(whole, own, &others)
}

/// The slice of a server that joins, out of what this one has and has not used.
///
/// # Errors
/// Nothing is left to give.
pub fn grant(
    known: &[Known],
    number: u16,
    whole: &Numbers,
    used: &Numbers,
    node_size: u64,
) -> Result<Grant, api::slice::Error> {
    let own = share(known, number, whole).limits.unwrap_or_else(|| whole.clone());
    api::slice::grant(whole, &own, used, node_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u16, site: &str) -> Known {
        let member =
            Member { number, name: format!("s{number}"), site: site.into(), address: None, actor: None, absent: false };
        bare(member)
    }

    fn site(number: u16, site: &str, several: bool) -> Site {
        Site { number, name: format!("s{number}"), site: site.into(), admitted_by: None, synced: true, several }
    }

    #[test]
    fn a_server_alone_marks_nothing_and_gives_everything() {
        let known = [member(1, "a")];
        assert!(!view(&site(1, "a", false), &known, &|_| false).marked);
        assert!(view(&site(1, "a", true), &known, &|_| false).marked, "it was given a site");
        assert_eq!(share(&known, 1, &Numbers::default()), Share::default());
    }

    #[test]
    fn of_a_sites_servers_the_lowest_in_contact_acts() {
        let known = [member(1, "a"), member(2, "b"), member(3, "b")];
        assert!(view(&site(3, "b", true), &known, &|_| true).passive);
        assert!(!view(&site(3, "b", true), &known, &|_| false).passive);
        assert!(!view(&site(2, "b", true), &known, &|_| true).passive);
        assert_eq!(&*view(&site(3, "b", true), &known, &|_| true).default_site, "a");
    }

    #[test]
    fn the_highest_epoch_counts_however_records_meet() {
        let with = |number, taken: &[(&str, &str)]| {
            let annotations =
                taken.iter().map(|(by, epoch)| (format!("{TAKEOVER}{by}"), (*epoch).to_owned())).collect();
            known(member(number, "a").member, &Spec::default(), &annotations)
        };
        let record = |by: &str, epoch| Record { by: by.into(), epoch };
        // Two parts of the cluster took over by themselves: what they wrote lies side by side.
        assert_eq!(with(1, &[("b", "2"), ("c", "3")]).takeover, Some(record("c", 3)));
        assert_eq!(with(1, &[("c", "3"), ("b", "3")]).takeover, Some(record("b", 3)), "the first by name of two alike");
        assert_eq!(with(1, &[("b", "nonsense")]).takeover, None);
        let known = [with(1, &[("b", "2")]), with(2, &[("c", "3")]), with(3, &[("d", "1")])];
        assert_eq!(records(&known)["a"], record("c", 3));
    }
}
