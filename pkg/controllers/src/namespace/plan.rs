//! What is told about a namespace while it is being emptied.
use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;

/// What was found in the namespace.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Objects left, by `resource.group`.
    pub remaining: BTreeMap<String, usize>,
    /// Objects left, by finalizer.
    pub finalizers: BTreeMap<String, usize>,
    pub discovery_error: Option<String>,
    pub delete_errors: Vec<String>,
}

impl Content {
    pub(super) fn is_empty(&self) -> bool {
        self.remaining.values().all(|count| *count == 0)
            && self.discovery_error.is_none()
            && self.delete_errors.is_empty()
    }
}

/// The five conditions of a namespace in deletion, with upstream's words.
pub(super) fn conditions(old: &[NamespaceCondition], content: &Content, now: Timestamp) -> Vec<NamespaceCondition> {
    let judged = [
        judge(
            "NamespaceDeletionDiscoveryFailure",
            content.discovery_error.clone().map(|error| ("DiscoveryFailed", error)),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        judge(
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        judge(
            "NamespaceDeletionContentFailure",
            failures(&content.delete_errors).map(|message| ("ContentDeletionFailed", message)),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        judge(
            "NamespaceContentRemaining",
            listed(&content.remaining, "has", "Some resources are remaining: ").map(|m| ("SomeResourcesRemain", m)),
            ("ContentRemoved", "All content successfully removed"),
        ),
        judge(
            "NamespaceFinalizersRemaining",
            listed(&content.finalizers, "in", "Some content in the namespace has finalizers remaining: ")
                .map(|m| ("SomeFinalizersRemain", m)),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let mut all: Vec<NamespaceCondition> = old.to_vec();
    for new in judged {
        match all.iter_mut().find(|condition| condition.type_ == new.type_) {
            Some(current) => {
                let since = current.last_transition_time.clone().filter(|_| current.status == new.status);
                *current = NamespaceCondition { last_transition_time: since.or(Some(Time(now))), ..new };
            }
            None => all.push(NamespaceCondition { last_transition_time: Some(Time(now)), ..new }),
        }
    }
    all
}

fn judge(type_: &str, bad: Option<(&str, String)>, good: (&str, &str)) -> NamespaceCondition {
    let status = if bad.is_some() { "True" } else { "False" };
    let (reason, message) = bad.unwrap_or((good.0, good.1.to_owned()));
    NamespaceCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    }
}

fn failures(errors: &[String]) -> Option<String> {
    let all = errors.join(", ");
    (!errors.is_empty()).then(|| format!("Failed to delete all resource types, {} remaining: {all}", errors.len()))
}

fn listed(counts: &BTreeMap<String, usize>, word: &str, intro: &str) -> Option<String> {
    let entries = counts.iter().filter(|(_, count)| **count > 0);
    let entries: Vec<String> =
        entries.map(|(what, count)| format!("{what} {word} {count} resource instances")).collect();
    (!entries.is_empty()).then(|| format!("{intro}{}", entries.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_remains_and_keep_their_times() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let content = Content {
            remaining: BTreeMap::from([("pods.".to_owned(), 2)]),
            finalizers: BTreeMap::from([("example.com/wait".to_owned(), 1)]),
            ..Content::default()
        };
        assert!(!content.is_empty());
        let first = conditions(&[], &content, at(1));
        assert_eq!(first.len(), 5);
        let message = |all: &[NamespaceCondition], n: usize| all[n].message.clone().unwrap();
        assert_eq!(message(&first, 3), "Some resources are remaining: pods. has 2 resource instances");
        assert_eq!(
            message(&first, 4),
            "Some content in the namespace has finalizers remaining: example.com/wait in 1 resource instances"
        );
        let second = conditions(&first, &Content::default(), at(9));
        assert_eq!(second[3].status, "False");
        assert_eq!(second[3].last_transition_time, Some(Time(at(9))));
        assert_eq!(second[0].last_transition_time, Some(Time(at(1))), "an unchanged status keeps its time");
        assert!(Content::default().is_empty());
    }
}
