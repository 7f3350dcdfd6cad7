//! What expressions of admission may ask of authorization: `authorizer`, and the questions that are built from it
//! (`k8s.io/apiserver/pkg/cel/library/authz.go`). The values themselves are the API server's.
use super::{Environment, Type};

/// The type of `authorizer`.
pub const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
/// A path of no resource.
pub const PATH: &str = "kubernetes.authorization.PathCheck";
/// An API group.
pub const GROUP: &str = "kubernetes.authorization.GroupCheck";
/// A resource, perhaps of one name in one namespace.
pub const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";
/// What was decided.
pub const DECISION: &str = "kubernetes.authorization.Decision";

const FUNCTIONS: &str = "\
    .path(kubernetes.authorization.Authorizer, string) kubernetes.authorization.PathCheck;\
    .group(kubernetes.authorization.Authorizer, string) kubernetes.authorization.GroupCheck;\
    .serviceAccount(kubernetes.authorization.Authorizer, string, string) kubernetes.authorization.Authorizer;\
    .resource(kubernetes.authorization.GroupCheck, string) kubernetes.authorization.ResourceCheck;\
    .subresource(kubernetes.authorization.ResourceCheck, string) kubernetes.authorization.ResourceCheck;\
    .namespace(kubernetes.authorization.ResourceCheck, string) kubernetes.authorization.ResourceCheck;\
    .name(kubernetes.authorization.ResourceCheck, string) kubernetes.authorization.ResourceCheck;\
    .fieldSelector(kubernetes.authorization.ResourceCheck, string) kubernetes.authorization.ResourceCheck;\
    .labelSelector(kubernetes.authorization.ResourceCheck, string) kubernetes.authorization.ResourceCheck;\
    .check(kubernetes.authorization.PathCheck, string) kubernetes.authorization.Decision;\
    .check(kubernetes.authorization.ResourceCheck, string) kubernetes.authorization.Decision;\
    .allowed(kubernetes.authorization.Decision) bool;\
    .reason(kubernetes.authorization.Decision) string;\
    .errored(kubernetes.authorization.Decision) bool;\
    .error(kubernetes.authorization.Decision) string";

impl Environment {
    /// Declares `authorizer`, `authorizer.requestResource` and what they answer.
    #[must_use]
    pub fn with_authorizer(self) -> Self {
        let all = self.functions(FUNCTIONS).variable("authorizer", Type::opaque(AUTHORIZER));
        all.variable("authorizer.requestResource", Type::opaque(RESOURCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_typed() {
        let environment = Environment::new().with_authorizer();
        let result = |source: &str| environment.compile(source).map(|program| program.result_type().clone());
        let allowed = "authorizer.group('apps').resource('deployments').namespace('n').check('create').allowed()";
        assert_eq!(result(allowed), Ok(Type::Bool));
        assert_eq!(result("authorizer.requestResource.check('get').allowed()"), Ok(Type::Bool));
        assert_eq!(
            result("authorizer.serviceAccount('n', 'a').path('/healthz').check('get').reason()"),
            Ok(Type::String)
        );
        assert!(result("authorizer.group('apps').check('get')").is_err());
        assert!(result("authorizer.other").is_err());
    }
}
