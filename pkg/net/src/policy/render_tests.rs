use super::*;
use crate::policy::model::ProfileName;
use std::net::SocketAddrV4;

fn cidr(text: &str) -> ipnet::Ipv4Net {
    text.parse().expect("cidr")
}

fn allow(peer: Peer, ports: Ports) -> Allow {
    Allow { policy: "x/p".into(), peer, ports }
}

fn some(ranges: &[(Protocol, RangeInclusive<u16>)], named: &[(Protocol, &str)]) -> Ports {
    let mut numbers = BTreeMap::<_, Vec<_>>::new();
    for (protocol, range) in ranges {
        numbers.entry(*protocol).or_default().push(range.clone());
    }
    Ports::Some { numbers, named: named.iter().map(|(protocol, name)| (*protocol, (*name).to_owned())).collect() }
}

#[test]
fn a_deny_all_is_an_element_a_pod_and_one_shared_chain() {
    let profile = ProfileName::from(["x/deny".to_owned()]);
    let isolated = (1..=3).map(|n| ((Direction::Ingress, Ipv4Addr::new(10, 42, 0, n)), profile.clone())).collect();
    let profiles = BTreeMap::from([((Direction::Ingress, profile), Vec::new())]);
    let mut ruleset = Ruleset::default();
    render(&Policies { isolated, profiles, ..Policies::default() }, &mut ruleset);
    assert_eq!(ruleset.chains.values().collect::<Vec<_>>(), [&vec!["counter drop".to_owned()]]);
    assert_eq!(ruleset.elements.len(), 3);
    let chain = ruleset.chains.keys().next().expect("chain");
    assert!(ruleset.elements.values().all(|value| *value == format!("goto {chain}")));
}

#[test]
fn allowances_as_rules() {
    let selected = || Peer::Selected("x: app=a".into());
    let set = selection_set("x: app=a");
    let block = |except: &[&str]| Peer::Block {
        network: cidr("10.0.0.0/8"),
        except: except.iter().map(|text| cidr(text)).collect(),
    };
    let everywhere = Peer::Block { network: cidr("0.0.0.0/0"), except: vec![cidr("10.0.0.0/8")] };
    let web = named_set(Protocol::Tcp, "web");
    let ports = some(&[(Protocol::Tcp, 80..=80), (Protocol::Tcp, 90..=99), (Protocol::Udp, 0..=u16::MAX)], &[]);
    let cases = [
        (allow(Peer::Anybody, Ports::All), vec![String::new()]),
        (allow(selected(), Ports::All), vec![format!("ip saddr @{set} ")]),
        (allow(selected(), some(&[], &[])), vec![]),
        (
            allow(selected(), ports),
            vec![format!("ip saddr @{set} tcp dport {{ 80, 90-99 }} "), format!("ip saddr @{set} meta l4proto udp ")],
        ),
        (allow(Peer::Anybody, some(&[], &[(Protocol::Tcp, "web")])), vec![format!("ip daddr . tcp dport @{web} ")]),
        (allow(block(&[]), Ports::All), vec!["ip saddr 10.0.0.0/8 ".into()]),
        (
            allow(block(&["10.1.0.0/16", "10.2.0.0/16"]), some(&[(Protocol::Sctp, 7..=7)], &[])),
            vec!["ip saddr 10.0.0.0/8 ip saddr != { 10.1.0.0/16, 10.2.0.0/16 } sctp dport 7 ".into()],
        ),
        (allow(everywhere, Ports::All), vec!["meta nfproto ipv4 ip saddr != 10.0.0.0/8 ".into()]),
    ];
    for (allow, expected) in cases {
        let expected: Vec<_> = expected.into_iter().map(|m: String| format!("{m}return comment \"x/p\"")).collect();
        assert_eq!(allowed(&allow, Direction::Ingress), expected);
    }
    assert!(allowed(&allow(selected(), Ports::All), Direction::Egress)[0].starts_with("ip daddr @"));
}

#[test]
fn named_ports_are_pairs_of_pod_and_number() {
    let ends = BTreeSet::from([SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, 1), 8080)]);
    let named_ports = BTreeMap::from([((Protocol::Tcp, "web".to_owned()), ends)]);
    let mut ruleset = Ruleset::default();
    render(&Policies { named_ports, ..Policies::default() }, &mut ruleset);
    let set = &ruleset.sets[&named_set(Protocol::Tcp, "web")];
    assert_eq!(set.members.iter().collect::<Vec<_>>(), ["10.42.0.1 . 8080"]);
}
