//! Why a reconciliation failed.

/// Every error is retried with a growing pause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{verb} {what}")]
    Api {
        verb: &'static str,
        /// Kind, namespace and name.
        what: String,
        #[source]
        source: kube::Error,
    },
    #[error("{what} has an unusable selector: {reason}")]
    Selector { what: String, reason: String },
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// What the API answered, as users see it in Events and conditions.
    pub fn message(&self) -> String {
        match self {
            Self::Api { source: kube::Error::Api(status), .. } => status.message.clone(),
            Self::Api { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(|status| status.reason == "AlreadyExists")
    }

    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.code == 409 && status.reason != "AlreadyExists")
    }

    /// Creates in a namespace that is being deleted fail by design.
    pub fn is_namespace_terminating(&self) -> bool {
        let causes = self.status().and_then(|status| status.details.as_ref()).map(|details| &details.causes);
        causes.is_some_and(|causes| causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
    }

    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api { source: kube::Error::Api(status), .. } => Some(status),
            _ => None,
        }
    }
}
