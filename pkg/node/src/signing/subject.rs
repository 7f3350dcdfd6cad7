//! What a signing request asks to be known as, and whether that befits a node (`pkg/apis/certificates/helpers.go`). Pure.
use std::collections::BTreeSet;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

const GROUP: &str = "system:nodes";
const USER_PREFIX: &str = "system:node:";

/// What is in a request beside its key.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Empty if it has none.
    pub common_name: String,
    organizations: Vec<String>,
    names: bool,
    emails: bool,
    addresses: bool,
    uris: bool,
}

impl Subject {
    /// # Errors
    /// What is wrong with the PEM.
    pub fn of(pem: &[u8]) -> Result<Self, String> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|error| error.to_string())?;
        if pem.label != "CERTIFICATE REQUEST" {
            return Err("PEM block type must be CERTIFICATE REQUEST".into());
        }
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
        let name = &request.certification_request_info.subject;
        let text = |name: &x509_parser::x509::AttributeTypeAndValue<'_>| name.as_str().unwrap_or_default().to_owned();
        let mut subject = Self {
            common_name: name.iter_common_name().last().map(text).unwrap_or_default(),
            organizations: name.iter_organization().map(text).collect(),
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(alternative) = extension else { continue };
            for name in &alternative.general_names {
                subject.names |= matches!(name, GeneralName::DNSName(_));
                subject.emails |= matches!(name, GeneralName::RFC822Name(_));
                subject.addresses |= matches!(name, GeneralName::IPAddress(_));
                subject.uris |= matches!(name, GeneralName::URI(_));
            }
        }
        Ok(subject)
    }

    /// # Errors
    /// Why this is no client certificate of a node.
    pub fn check_node_client(&self, usages: &[String]) -> Result<(), String> {
        self.check_group()?;
        for (has, what) in [(self.names, "DNS"), (self.emails, "Email"), (self.addresses, "IP"), (self.uris, "URI")] {
            refuse(has, &format!("{what} subjectAltNames are not allowed"))?;
        }
        self.check_name()?;
        check_usages(usages, "client auth")
    }

    /// # Errors
    /// Why this is no serving certificate of a node.
    pub fn check_node_serving(&self, usages: &[String]) -> Result<(), String> {
        self.check_group()?;
        refuse(!self.names && !self.addresses, "DNS or IP subjectAltName is required")?;
        refuse(self.emails, "Email subjectAltNames are not allowed")?;
        refuse(self.uris, "URI subjectAltNames are not allowed")?;
        check_usages(usages, "server auth")?;
        self.check_name()
    }

    fn check_group(&self) -> Result<(), String> {
        refuse(self.organizations != [GROUP], "subject organization is not system:nodes")
    }

    fn check_name(&self) -> Result<(), String> {
        let is_node = self.common_name.starts_with(USER_PREFIX);
        refuse(!is_node, "subject common name does not begin with system:node:")
    }
}

fn refuse(when: bool, why: &str) -> Result<(), String> {
    if when { Err(why.to_owned()) } else { Ok(()) }
}

/// Exactly these, where keys that can't encipher (not RSA) leave that out.
fn check_usages(usages: &[String], purpose: &str) -> Result<(), String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let all = BTreeSet::from([purpose, "digital signature", "key encipherment"]);
    let without = BTreeSet::from([purpose, "digital signature"]);
    let wanted: Vec<&str> = all.iter().copied().collect();
    refuse(given != all && given != without, &format!("usages did not match [{}]", wanted.join(" ")))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    /// A request in PEM, of these organisations and alternative names.
    pub fn request(common_name: &str, organizations: &[&str], names: Vec<SanType>) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        for organization in organizations {
            params.distinguished_name.push(DnType::OrganizationName, *organization);
        }
        params.subject_alt_names = names;
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    fn usages(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn dns() -> SanType {
        SanType::DnsName("n1".try_into().unwrap())
    }

    #[test]
    fn a_nodes_client_certificate_has_one_group_and_no_other_names() {
        let usual = usages(&["key encipherment", "digital signature", "client auth"]);
        let check = |name: &str, groups: &[&str], names: Vec<SanType>, usages: &[String]| {
            Subject::of(request(name, groups, names).as_bytes()).unwrap().check_node_client(usages)
        };
        let (node, group) = ("system:node:n1", [GROUP]);
        assert_eq!(check(node, &group, Vec::new(), &usual), Ok(()));
        assert_eq!(check(node, &group, Vec::new(), &usual[1..]), Ok(()), "no RSA");
        let refused = |result: Result<(), String>| result.unwrap_err();
        assert_eq!(refused(check(node, &[], Vec::new(), &usual)), "subject organization is not system:nodes");
        let bob = refused(check("bob", &group, Vec::new(), &usual));
        assert_eq!(bob, "subject common name does not begin with system:node:");
        assert_eq!(refused(check(node, &group, vec![dns()], &usual)), "DNS subjectAltNames are not allowed");
        let address = vec![SanType::IpAddress([192, 0, 2, 1].into())];
        assert_eq!(refused(check(node, &group, address, &usual)), "IP subjectAltNames are not allowed");
        let more = [usual.clone(), usages(&["server auth"])].concat();
        let text = "usages did not match [client auth digital signature key encipherment]";
        assert_eq!(refused(check(node, &group, Vec::new(), &more)), text);
    }

    #[test]
    fn a_nodes_serving_certificate_has_names() {
        let usual = usages(&["digital signature", "server auth"]);
        let check = |names: Vec<SanType>, usages: &[String]| {
            Subject::of(request("system:node:n1", &[GROUP], names).as_bytes()).unwrap().check_node_serving(usages)
        };
        assert_eq!(check(vec![dns()], &usual), Ok(()));
        assert_eq!(check(Vec::new(), &usual).unwrap_err(), "DNS or IP subjectAltName is required");
        let email = SanType::Rfc822Name("a@example.com".try_into().unwrap());
        assert_eq!(check(vec![dns(), email], &usual).unwrap_err(), "Email subjectAltNames are not allowed");
        assert!(check(vec![dns()], &usual[1..]).unwrap_err().starts_with("usages did not match [digital signature"));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(Subject::of(b"nonsense").is_err());
        let certificate = rcgen::generate_simple_self_signed(vec!["n1".into()]).unwrap().cert.pem();
        assert_eq!(Subject::of(certificate.as_bytes()).unwrap_err(), "PEM block type must be CERTIFICATE REQUEST");
    }
}
