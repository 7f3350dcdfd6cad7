//! Acting as somebody else: the `Impersonate-*` headers, each of which needs its own permission
//! (`k8s.io/apiserver/pkg/endpoints/filters/impersonation`).
use crate::authz::{Attributes, Authorizer};
use crate::request::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User};
use api::Status;
use http::HeaderMap;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The user that the request is served as; the headers are taken away.
///
/// # Errors
/// 400 for headers that make no sense together, 403 for what `user` may not impersonate.
pub fn impersonate(authorizer: &Authorizer, user: User, headers: &mut HeaderMap) -> Result<User, Status> {
    let Some(wanted) = read(headers)? else { return Ok(user) };
    let check = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let attributes = Attributes::Resource {
            verb: "impersonate".into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
        };
        authorizer.check(&user, &attributes)
    };
    match wanted.name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':')) {
        Some((namespace, name)) => check("", "serviceaccounts", "", namespace, name)?,
        None => check("", "users", "", "", &wanted.name)?,
    }
    for group in &wanted.groups {
        check("", "groups", "", "", group)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            check("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    if !wanted.uid.is_empty() {
        check("authentication.k8s.io", "uids", "", "", &wanted.uid)?;
    }
    Ok(complete(wanted))
}

/// Takes the headers out; none of them: nobody is impersonated.
fn read(headers: &mut HeaderMap) -> Result<Option<User>, Status> {
    let names: Vec<_> = headers.keys().filter(|key| key.as_str().starts_with("impersonate-")).cloned().collect();
    let mut user = User::default();
    for name in &names {
        let values =
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect::<Vec<_>>();
        headers.remove(name);
        match name.as_str() {
            USER => user.name = values.into_iter().next().unwrap_or_default(),
            GROUP => user.groups = values,
            UID => user.uid = values.into_iter().next().unwrap_or_default(),
            extra => {
                let key = extra.strip_prefix(EXTRA).map(unescape);
                user.extra.extend(key.map(|key| (key, values)));
            }
        }
    }
    if names.is_empty() {
        return Ok(None);
    }
    if user.name.is_empty() {
        return Err(Status::internal(format!(
            "requested {:?} without impersonating a user",
            names.iter().map(|n| n.as_str()).collect::<Vec<_>>()
        )));
    }
    Ok(Some(user))
}

/// The groups that come with a name.
fn complete(mut user: User) -> User {
    let account = user.name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
    if let Some((namespace, _)) = account.filter(|_| user.groups.is_empty()) {
        user.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    let implied = if user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !user.in_group(AUTHENTICATED) && !user.in_group(UNAUTHENTICATED) {
        user.groups.push(implied.into());
    }
    user
}

/// Keys of extra are percent-encoded in the header's name.
fn unescape(key: &str) -> String {
    crate::request::parse_query(&format!("k={key}")).pop().map_or_else(|| key.to_owned(), |(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::MASTERS;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (key, value) in pairs {
            headers.append(*key, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn masters_act_as_anybody() {
        let authorizer = Authorizer::default();
        let admin = User::new("admin", &[MASTERS]);
        let mut wanted = headers(&[
            ("impersonate-user", "bob"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-extra-example.com%2fkey", "v"),
        ]);
        let bob = impersonate(&authorizer, admin.clone(), &mut wanted).unwrap();
        assert_eq!((&*bob.name, bob.groups.join(" ")), ("bob", "a b system:authenticated".into()));
        assert_eq!(bob.extra["example.com/key"], ["v"]);
        assert!(wanted.is_empty());
        let mut wanted = headers(&[("impersonate-user", "system:serviceaccount:ns:bot")]);
        let bot = impersonate(&authorizer, admin, &mut wanted).unwrap();
        assert_eq!(bot.groups.join(" "), "system:serviceaccounts system:serviceaccounts:ns system:authenticated");
    }

    #[test]
    fn others_need_permission() {
        let mut wanted = headers(&[("impersonate-user", "bob")]);
        let error = impersonate(&Authorizer::default(), User::new("eve", &[]), &mut wanted).unwrap_err();
        assert_eq!(
            error.message,
            r#"users "bob" is forbidden: User "eve" cannot impersonate resource "users" in API group "" at the cluster scope"#
        );
        let mut groups_alone = headers(&[("impersonate-group", "a")]);
        assert_eq!(
            impersonate(&Authorizer::default(), User::new("eve", &[MASTERS]), &mut groups_alone).unwrap_err().code,
            500
        );
    }
}
