//! `authorizer` in expressions: what somebody may do, asked of the same rules as requests are
//! (`k8s.io/apiserver/pkg/cel/library/authz.go`).
use crate::User;
use crate::authz::{Attributes, Authorizer, Decision};
use api::cel::authorizer::{AUTHORIZER, DECISION, GROUP, PATH, RESOURCE};
use api::cel::{Error, Opaque, Value};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// What the request itself asks for, as `authorizer.requestResource`.
#[derive(Clone, Default)]
pub struct Own {
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone)]
enum What {
    Anything,
    Path(String),
    Group(String),
    Resource(Own),
    Decided(bool, String),
}

/// A question that is being built, or its answer.
#[derive(Clone)]
pub struct Question {
    authorizer: Arc<Authorizer>,
    user: User,
    what: What,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("user", &self.user.name).finish_non_exhaustive()
    }
}

/// The values of `authorizer` and `authorizer.requestResource` for `user`.
pub fn values(authorizer: &Arc<Authorizer>, user: &User, own: Own) -> [Value<'static>; 2] {
    let question = Question { authorizer: authorizer.clone(), user: user.clone(), what: What::Anything };
    [Value::Opaque(Arc::new(question.clone())), question.with(What::Resource(own))]
}

impl Question {
    fn with(&self, what: What) -> Value<'static> {
        Value::Opaque(Arc::new(Self { what, ..self.clone() }))
    }

    fn decide(&self, wanted: &Attributes<'_>) -> Value<'static> {
        match self.authorizer.authorize(&self.user, wanted) {
            Decision::Allow { reason } => self.with(What::Decided(true, reason)),
            Decision::NoOpinion { reason } => self.with(What::Decided(false, reason)),
        }
    }

    fn of_account(&self, namespace: &str, name: &str) -> Value<'static> {
        let own = format!("system:serviceaccounts:{namespace}");
        let groups = ["system:serviceaccounts", &own, crate::request::AUTHENTICATED];
        let user = User::new(format!("system:serviceaccount:{namespace}:{name}"), &groups);
        Value::Opaque(Arc::new(Self { user, ..self.clone() }))
    }
}

impl Opaque for Question {
    fn type_name(&self) -> &str {
        match &self.what {
            What::Anything => AUTHORIZER,
            What::Path(_) => PATH,
            What::Group(_) => GROUP,
            What::Resource(_) => RESOURCE,
            What::Decided(..) => DECISION,
        }
    }

    fn call(&self, function: &str, arguments: &[Value<'_>]) -> Result<Value<'static>, Error> {
        let text = |at: usize| arguments.get(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(match (&self.what, function) {
            (What::Anything, "path") => self.with(What::Path(text(0))),
            (What::Anything, "group") => self.with(What::Group(text(0))),
            (What::Anything, "serviceAccount") => self.of_account(&text(0), &text(1)),
            (What::Group(group), "resource") => {
                self.with(What::Resource(Own { group: group.clone(), resource: text(0), ..Own::default() }))
            }
            (What::Resource(of), "subresource") => {
                self.with(What::Resource(Own { subresource: text(0), ..of.clone() }))
            }
            (What::Resource(of), "namespace") => self.with(What::Resource(Own { namespace: text(0), ..of.clone() })),
            // Rules know no selectors: who may all may some.
            (What::Resource(_), "fieldSelector" | "labelSelector") => self.with(self.what.clone()),
            (What::Resource(of), "name") => self.with(What::Resource(Own { name: text(0), ..of.clone() })),
            (What::Path(path), "check") => {
                self.decide(&Attributes::NonResource { verb: text(0).into(), path: path.as_str().into() })
            }
            (What::Resource(of), "check") => self.decide(&Attributes::Resource {
                verb: text(0).into(),
                group: of.group.as_str().into(),
                resource: of.resource.as_str().into(),
                subresource: of.subresource.as_str().into(),
                namespace: of.namespace.as_str().into(),
                name: of.name.as_str().into(),
            }),
            (What::Decided(allowed, _), "allowed") => Value::Bool(*allowed),
            (What::Decided(_, reason), "reason") => Value::string(reason.as_str()),
            (What::Decided(..), "errored") => Value::Bool(false),
            (What::Decided(..), "error") => Value::string(""),
            _ => return Err(Error::Function(format!("no such overload: {function}"))),
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::cel::{Budget, Environment, Variables};

    #[test]
    fn expressions_ask_the_same_authorizer_as_requests() {
        let authorizer = Arc::new(Authorizer::default());
        let own = Own { resource: "pods".into(), namespace: "n".into(), ..Own::default() };
        let ask = |user: &User, source: &str| {
            let [asker, request] = values(&authorizer, user, own.clone());
            let program = Environment::new().with_authorizer().compile(source).unwrap();
            let variables = Variables::new().with("authorizer", asker).with("authorizer.requestResource", request);
            program.evaluate(&variables, &mut Budget::default()).unwrap().as_bool()
        };
        let (admin, nobody) = (User::new("a", &[crate::request::MASTERS]), User::new("b", &[]));
        let pods = "authorizer.group('').resource('pods').namespace('n').name('x').check('get').allowed()";
        assert_eq!((ask(&admin, pods), ask(&nobody, pods)), (Some(true), Some(false)));
        let own = "authorizer.requestResource.subresource('exec').check('create').allowed()";
        assert_eq!((ask(&admin, own), ask(&nobody, own)), (Some(true), Some(false)));
        let account = "authorizer.serviceAccount('n', 'a').path('/metrics').check('get').allowed()";
        assert_eq!(ask(&admin, account), Some(false));
        assert_eq!(ask(&nobody, "!authorizer.path('/x').check('get').errored()"), Some(true));
    }
}
