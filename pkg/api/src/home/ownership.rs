//! This server's view of the sites, and what follows from it for one object.
use super::{Claim, Site};
use std::collections::{BTreeMap, BTreeSet};

/// This server's view: its own site, and how it stands with all others. The default is a server alone, which acts on
/// everything and marks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The site of this server.
    pub site: Site,
    /// The founder's site: home of what names none.
    pub default_site: Site,
    /// Whether homes count at all, and new objects get one. False on a server that was given no site and has no others:
    /// its objects look like upstream's.
    pub marked: bool,
    /// Whether another server of this site acts for it: then this one only serves its clients.
    pub passive: bool,
    /// All other sites that are known.
    pub others: BTreeMap<Site, Link>,
    /// Those of which nothing came for so long that nothing is entrusted to them.
    pub quiet: BTreeSet<Site>,
}

/// How this server stands with another site. It is a local view and never replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// In contact, directly or through others.
    Up,
    /// Out of contact.
    Down {
        /// Seconds since the last contact.
        for_s: u64,
        /// Who acts for it meanwhile.
        taken: Option<Taken>,
    },
}

/// A takeover of one site by another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub by: Site,
    /// Grows with each takeover of a site: of two that were decided apart, the higher counts.
    pub epoch: u64,
}

/// What an object is to this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is ours.
    Home,
    /// Its home is lost, and we act for it: what is missing may be created, nothing of it may be taken away.
    Taken,
    /// Another site's, which is lost to us: a copy of it does not count as there.
    Lost,
    /// Another site's.
    Elsewhere,
}

impl Ownership {
    /// A server of `site` in a cluster that `founder` began.
    pub fn of(site: &str, founder: &str) -> Self {
        Self { site: site.into(), default_site: founder.into(), marked: true, ..Self::default() }
    }

    /// With one more site.
    pub fn with(mut self, site: &str, link: Link) -> Self {
        self.others.insert(site.into(), link);
        self
    }

    /// The site that a claim names. What names none, or one that is no member (any more), is the founder's; if the founder
    /// is gone, the first member's.
    pub fn home_of<'a>(&'a self, claim: &Claim<'a>) -> &'a str {
        let named = claim.home.filter(|site| self.is_member(site));
        let founder = || Some(&*self.default_site).filter(|site| self.is_member(site));
        let first = || self.others.keys().chain([&self.site]).min().map_or("", |site| site);
        named.or_else(founder).unwrap_or_else(first)
    }

    /// Whether a site of this name exists.
    pub fn is_member(&self, site: &str) -> bool {
        *self.site == *site || self.others.contains_key(site)
    }

    /// Whether the object belongs to this server's site, whichever of the site's servers acts on it.
    pub fn is_own(&self, claim: &Claim<'_>) -> bool {
        !self.marked || self.home_of(claim) == &*self.site
    }

    pub fn standing(&self, claim: &Claim<'_>) -> Standing {
        if self.is_own(claim) {
            return if self.passive { Standing::Elsewhere } else { Standing::Home };
        }
        match self.others.get(self.home_of(claim)) {
            Some(Link::Down { for_s, taken }) if !claim.stay && *for_s >= claim.takeover_s => {
                let ours = !self.passive && taken.as_ref().is_some_and(|taken| taken.by == self.site);
                if ours && !claim.fixed { Standing::Taken } else { Standing::Lost }
            }
            _ => Standing::Elsewhere,
        }
    }

    /// Whether this server acts on the object, as its home or for it.
    pub fn acts_on(&self, claim: &Claim<'_>) -> bool {
        matches!(self.standing(claim), Standing::Home | Standing::Taken)
    }

    /// Whether the object is ours, not just in our care.
    pub fn is_home(&self, claim: &Claim<'_>) -> bool {
        self.standing(claim) == Standing::Home
    }

    /// Whether the object counts as gone: its home is lost, and it does not wait for it.
    pub fn is_lost(&self, claim: &Claim<'_>) -> bool {
        matches!(self.standing(claim), Standing::Lost | Standing::Taken)
    }

    /// Seconds for which the object's home has been out of contact; none: it is in contact, or this site.
    fn silent_s(&self, claim: &Claim<'_>) -> Option<u64> {
        match self.others.get(self.home_of(claim)) {
            Some(Link::Down { for_s, .. }) if !self.is_own(claim) => Some(*for_s),
            _ => None,
        }
    }

    /// Seconds until the object counts as gone, if its home stays out of contact; none: it is there, waits, or is gone.
    pub fn lost_in_s(&self, claim: &Claim<'_>) -> Option<u64> {
        let silent_s = self.silent_s(claim).filter(|_| !claim.stay)?;
        claim.takeover_s.checked_sub(silent_s).filter(|left| *left > 0)
    }

    /// Whether the object's home is this site, or one in contact.
    pub fn in_contact(&self, claim: &Claim<'_>) -> bool {
        self.silent_s(claim).is_none()
    }

    /// Other sites that something can be entrusted to.
    pub fn reachable(&self) -> impl Iterator<Item = &Site> {
        let heard = |(site, link): &(&Site, &Link)| **link == Link::Up && !self.quiet.contains(*site);
        self.others.iter().filter(heard).map(|(site, _)| site)
    }

    /// Whether a site has been out of contact for as long as this at least, in milliseconds: what was written since it does not
    /// know.
    pub fn is_unheard(&self, site: &str, for_ms: u64) -> bool {
        matches!(self.others.get(site), Some(Link::Down { for_s, .. }) if for_s.saturating_mul(1000) >= for_ms)
    }

    /// Who acts on the object now, as seen from here; none while home is away and nobody does.
    pub fn actor<'a>(&'a self, claim: &Claim<'a>) -> Option<&'a str> {
        if !self.marked {
            return Some(&self.site);
        }
        let home = self.home_of(claim);
        match self.others.get(home) {
            _ if home == &*self.site => Some(home),
            Some(Link::Up) => Some(home),
            Some(Link::Down { for_s, taken: Some(taken) })
                if !claim.stay && !claim.fixed && *for_s >= claim.takeover_s =>
            {
                Some(&taken.by)
            }
            _ => None,
        }
    }

    /// Whether anything may have changed for every object, not only for those of certain sites.
    pub fn differs_in_rules(&self, other: &Self) -> bool {
        let rules = |view: &Self| {
            let members: Vec<Site> = view.others.keys().cloned().collect();
            (view.marked, view.passive, view.site.clone(), view.default_site.clone(), members)
        };
        rules(self) != rules(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(home: Option<&str>) -> Claim<'_> {
        Claim { home, stay: false, takeover_s: 300, fixed: false }
    }

    fn down(for_s: u64, by: Option<&str>) -> Link {
        Link::Down { for_s, taken: by.map(|by| Taken { by: by.into(), epoch: 1 }) }
    }

    #[test]
    fn what_is_away_is_waited_for_as_long_as_its_claim_says() {
        let claim = |home| Claim { home: Some(home), stay: false, takeover_s: 25, fixed: true };
        let view = |for_s| Ownership::of("a", "a").with("b", Link::Up).with("c", Link::Down { for_s, taken: None });
        assert_eq!(view(10).lost_in_s(&claim("c")), Some(15));
        assert_eq!((view(25).lost_in_s(&claim("c")), view(25).is_lost(&claim("c"))), (None, true));
        assert_eq!((view(10).lost_in_s(&claim("a")), view(10).lost_in_s(&claim("b"))), (None, None));
        assert_eq!(view(10).lost_in_s(&Claim { stay: true, ..claim("c") }), None);
        assert!(
            view(10).in_contact(&claim("a")) && view(10).in_contact(&claim("b")) && !view(10).in_contact(&claim("c"))
        );
    }

    #[test]
    fn who_says_nothing_is_entrusted_with_nothing() {
        let mut view = Ownership::of("a", "a").with("b", Link::Up).with("c", Link::Up).with("d", down(20, None));
        view.quiet.insert("b".into());
        assert_eq!(view.reachable().map(|site| &**site).collect::<Vec<_>>(), ["c"]);
        assert!(view.is_unheard("d", 20_000) && !view.is_unheard("d", 20_001) && !view.is_unheard("b", 0));
    }

    #[test]
    fn a_server_alone_acts_on_everything() {
        let alone = Ownership::default();
        assert_eq!(alone.standing(&claim(None)), Standing::Home);
        assert_eq!(alone.standing(&claim(Some("elsewhere"))), Standing::Home);
    }

    #[test]
    fn home_alone_acts_while_links_are_up() {
        let sites = ["a", "b", "c"];
        let views: Vec<Ownership> = sites
            .iter()
            .map(|site| {
                let others = sites.iter().filter(|other| *other != site);
                others.fold(Ownership::of(site, "a"), |view, other| view.with(other, Link::Up))
            })
            .collect();
        for home in [None, Some("a"), Some("b"), Some("c")] {
            let acting: Vec<&str> = views.iter().filter(|v| v.acts_on(&claim(home))).map(|v| &*v.site).collect();
            assert_eq!(acting, [home.unwrap_or("a")], "the founder acts on what names no home");
        }
    }

    #[test]
    fn a_lost_site_is_taken_over_after_the_objects_own_time() {
        let early = Ownership::of("b", "a").with("a", down(299, Some("b")));
        assert_eq!(early.standing(&claim(None)), Standing::Elsewhere);
        let late = Ownership::of("b", "a").with("a", down(300, Some("b")));
        assert_eq!(late.standing(&claim(None)), Standing::Taken);
        assert_eq!(late.standing(&Claim { takeover_s: 3600, ..claim(None) }), Standing::Elsewhere);
        let quick = Ownership::of("b", "a").with("a", down(10, Some("b")));
        assert_eq!(quick.standing(&Claim { takeover_s: 10, ..claim(None) }), Standing::Taken);
    }

    #[test]
    fn of_several_servers_of_a_site_one_acts() {
        let acting = Ownership::of("a", "a").with("b", down(900, Some("a")));
        let passive = Ownership { passive: true, ..acting.clone() };
        for home in [None, Some("a"), Some("b")] {
            assert!(acting.acts_on(&claim(home)) && !passive.acts_on(&claim(home)));
        }
        assert!(passive.is_own(&claim(None)));
    }

    #[test]
    fn objects_of_a_site_that_left_are_the_founders() {
        let founder = Ownership::of("a", "a").with("b", Link::Up);
        let other = Ownership::of("b", "a").with("a", Link::Up);
        assert!(founder.is_home(&claim(Some("left"))) && !other.acts_on(&claim(Some("left"))));
        let without = Ownership::of("c", "a").with("b", Link::Up);
        assert_eq!(without.home_of(&claim(None)), "b", "the founder left too");
    }

    #[test]
    fn one_site_takes_over_and_others_wait() {
        let taker = Ownership::of("b", "a").with("a", down(900, Some("b"))).with("c", Link::Up);
        let other = Ownership::of("c", "a").with("a", down(900, Some("b"))).with("b", Link::Up);
        assert!(taker.acts_on(&claim(None)));
        assert_eq!(other.standing(&claim(None)), Standing::Lost);
        assert_eq!(other.actor(&claim(None)), Some("b"));
    }

    #[test]
    fn what_stays_is_never_taken_nor_counted_as_gone() {
        let view = Ownership::of("b", "a").with("a", down(u64::MAX, Some("b")));
        let stays = Claim { stay: true, ..claim(None) };
        assert_eq!(view.standing(&stays), Standing::Elsewhere);
        assert!(!view.is_lost(&stays));
        assert_eq!(view.actor(&stays), None);
    }

    #[test]
    fn nodes_pods_and_volumes_are_replaced_but_never_acted_on() {
        let view = Ownership::of("b", "a").with("a", down(900, Some("b")));
        let pod = Claim { fixed: true, ..claim(None) };
        assert_eq!(view.standing(&pod), Standing::Lost);
        assert!(!view.acts_on(&pod) && view.is_lost(&pod));
    }

    #[test]
    fn home_acts_again_as_soon_as_it_is_back() {
        let taker = Ownership::of("b", "a").with("a", Link::Up);
        assert_eq!(taker.standing(&claim(None)), Standing::Elsewhere);
        assert_eq!(taker.actor(&claim(None)), Some("a"));
        let home = Ownership::of("a", "a").with("b", down(900, Some("a")));
        assert_eq!(home.standing(&claim(None)), Standing::Home, "a site never loses its own");
    }
}
