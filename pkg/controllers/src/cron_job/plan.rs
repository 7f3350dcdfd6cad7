//! When a CronJob's next Job starts, which old ones go, and what the status says.
use crate::action::{self, Action, Note, Told};
use crate::job::plan::finished;
use crate::owned;
use api::schedule::Schedule;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;
use std::sync::Arc;
use std::time::Duration;

/// Starts that may be missed before it is told; upstream's figure.
const TOO_MANY_MISSED: usize = 100;
/// On each Job: the time it was meant for.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// What to do for a CronJob, given the Jobs it made.
pub(super) fn plan(cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Vec<Action> {
    let spec = &cron.spec;
    let mut actions = clean_up(cron, spec, jobs);
    let mut status = cron.status.clone().unwrap_or_default();
    let mut active = follow(cron, jobs, &mut status.active, &mut status.last_successful_time, &mut actions);
    if cron.metadata.deletion_timestamp.is_none() && spec.suspend != Some(true) {
        match start(cron, spec, jobs, now, &active) {
            Ok(started) => {
                actions.extend(started.actions);
                active.retain(|job| !started.replaced.contains(&job.uid));
                active.extend(started.job);
                status.last_schedule_time = started.at.map(Time).or(status.last_schedule_time);
            }
            Err(note) => actions.push(Action::Tell(note)),
        }
    }
    status.active = Some(active).filter(|active| !active.is_empty());
    let old = cron.status.clone().unwrap_or_default();
    // Made Jobs have fixed names, so that noting them after they were made can't make two.
    actions.extend(action::status(cron, &old, &status));
    actions
}

/// The Jobs that run, as the status lists them.
fn follow(
    cron: &CronJob,
    jobs: &[Arc<Job>],
    listed: &mut Option<Vec<ObjectReference>>,
    last_success: &mut Option<Time>,
    actions: &mut Vec<Action>,
) -> Vec<ObjectReference> {
    let was_listed = |job: &Job| listed.iter().flatten().any(|reference| reference.uid == job.uid());
    for job in jobs {
        let Some(condition) = finished(job) else { continue };
        if was_listed(job) {
            let message = format!("Saw completed job: {}, condition: {}", job.name_any(), condition.type_);
            actions.push(tell(cron, false, "SawCompletedJob", message));
        }
        let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
        if let Some(at) = completed.filter(|_| condition.type_ == "Complete") {
            *last_success = Some(match last_success.take() {
                Some(last) if last.0 > at.0 => last,
                _ => at,
            });
        }
    }
    let (ours, others): (Vec<&Arc<Job>>, Vec<_>) = jobs
        .iter()
        .filter(|job| finished(job).is_none())
        .partition(|job| was_listed(job) || job.annotations().contains_key(SCHEDULED_AT));
    // `kubectl create job --from` makes such: they run beside the schedule.
    actions.extend(others.into_iter().map(|job| {
        let message = format!("Saw a job that the controller did not create or forgot: {}", job.name_any());
        tell(cron, true, "UnexpectedJob", message)
    }));
    ours.into_iter().map(|job| reference(job)).collect()
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference { resource_version: job.resource_version(), ..client::reference(job) }
}

/// Finished Jobs past the history limits, the oldest first.
fn clean_up(cron: &CronJob, spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Action> {
    let mut actions = Vec::new();
    let limits = [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (how, limit) in limits {
        let ended = jobs.iter().filter(|job| finished(job).is_some_and(|condition| condition.type_ == how));
        let mut ended: Vec<_> = ended.filter(|job| job.metadata.deletion_timestamp.is_none()).collect();
        ended.sort_by_key(|job| {
            (job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|time| time.0), job.name_any())
        });
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
        actions.extend(ended.into_iter().take(surplus).map(|job| delete(cron, job)));
    }
    actions
}

fn delete(cron: &CronJob, job: &Job) -> Action {
    action::delete(
        job,
        Told::done(&client::reference(cron), "SuccessfulDelete", format!("Deleted job {}", job.name_any())),
    )
}

fn tell(cron: &CronJob, warning: bool, reason: &'static str, message: String) -> Action {
    Action::Tell(note(cron, warning, reason, message))
}

fn note(cron: &CronJob, warning: bool, reason: &'static str, message: String) -> Note {
    Note { about: client::reference(cron), warning, reason, message }
}

#[derive(Default)]
struct Started {
    actions: Vec<Action>,
    job: Option<ObjectReference>,
    replaced: Vec<Option<String>>,
    at: Option<Timestamp>,
}

fn start(
    cron: &CronJob,
    spec: &CronJobSpec,
    jobs: &[Arc<Job>],
    now: Timestamp,
    active: &[ObjectReference],
) -> Result<Started, Note> {
    let zone = match spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => TimeZone::get(name)
            .map_err(|error| note(cron, true, "UnknownTimeZone", format!("invalid timeZone: {name:?}: {error}")))?,
    };
    let schedule = Schedule::parse(&spec.schedule).map_err(|e| {
        note(cron, true, "UnparseableSchedule", format!("unparseable schedule: {:?} : {e}", spec.schedule))
    })?;
    let mut started = Started::default();
    let (due, missed) = last_due(cron, spec, &schedule, &zone, now);
    if let Some(next) = schedule.next(now, &zone) {
        let left = Duration::try_from(next.duration_since(now)).unwrap_or_default();
        started.actions.push(Action::Again(left + Duration::from_millis(100)));
    }
    if missed > TOO_MANY_MISSED {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        started.actions.push(tell(cron, true, "TooManyMissedTimes", message.into()));
    }
    let Some(due) = due else { return Ok(started) };
    let name = job_name(&cron.name_any(), due);
    if jobs.iter().any(|job| job.name_any() == name) {
        started.at = Some(due);
        return Ok(started);
    }
    let deadline = spec.starting_deadline_seconds.map(|seconds| due + SignedDuration::from_secs(seconds));
    if deadline.is_some_and(|deadline| deadline < now) {
        let at = due.strftime("%a, %d %b %Y %H:%M:%S +0000");
        started.actions.push(tell(cron, true, "MissSchedule", format!("Missed scheduled time to start a job: {at}")));
        return Ok(started);
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            started.actions.push(tell(cron, false, "JobAlreadyActive", message.into()));
            return Ok(started);
        }
        Some("Replace") => {
            let running =
                jobs.iter().filter(|job| finished(job).is_none() && job.metadata.deletion_timestamp.is_none());
            started.replaced = active.iter().map(|job| job.uid.clone()).collect();
            started.actions.extend(running.map(|job| delete(cron, job)));
        }
        _ => {}
    }
    let job = make(cron, spec, name, due, &zone);
    let told = Told::done(&client::reference(cron), "SuccessfulCreate", "Created job {name}")
        .or("FailedCreate", "Error creating job: {error}");
    started.actions.push(action::create(&job, told));
    started.at = Some(due);
    Ok(started)
}

/// The latest time that should have started a Job and hasn't, and how many were missed.
fn last_due(
    cron: &CronJob,
    spec: &CronJobSpec,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
) -> (Option<Timestamp>, usize) {
    let last = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref()).map(|time| time.0);
    let born = cron.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let mut from = last.or(born).unwrap_or(now);
    if let Some(seconds) = spec.starting_deadline_seconds {
        from = from.max(now - SignedDuration::from_secs(seconds.clamp(0, 10 * 365 * 86_400)));
    }
    let (mut due, mut missed) = (None, 0);
    while let Some(next) = schedule.next(from, zone).filter(|next| *next <= now) {
        (due, missed, from) = (Some(next), missed + 1, next);
        if missed > TOO_MANY_MISSED {
            // Long ago: near the present the latest is found in few steps.
            let week = now - SignedDuration::from_hours(24 * 7);
            let hour = now - SignedDuration::from_hours(1);
            let jump = [hour, week].into_iter().filter(|at| *at > from);
            from = jump.into_iter().find(|at| schedule.next(*at, zone).is_some_and(|next| next <= now)).unwrap_or(from);
        }
    }
    (due, missed)
}

/// Upstream's: the minute since 1970, so that a start can't happen twice.
fn job_name(cron: &str, due: Timestamp) -> String {
    format!("{cron}-{}", due.as_second() / 60)
}

fn make(cron: &CronJob, spec: &CronJobSpec, name: String, due: Timestamp, zone: &TimeZone) -> Job {
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = template.annotations.unwrap_or_default();
    let at = due.to_zoned(zone.clone());
    let at = match at.offset().is_zero() {
        true => due.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        false => at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    };
    annotations.insert(SCHEDULED_AT.into(), at);
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: cron.namespace(),
        labels: template.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![owned::reference_to(cron)]),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: spec.job_template.spec.clone(), status: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cron(spec: Value, last: Option<&str>) -> CronJob {
        let mut all = json!({"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {}}}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "ns", "uid": "c",
            "creationTimestamp": "2026-11-21T08:01:00Z"}, "spec": all, "status": {"lastScheduleTime": last}}))
        .unwrap()
    }

    fn job(name: &str, condition: Option<&str>) -> Arc<Job> {
        let conditions = condition.map(|type_| json!([{"type": type_, "status": "True"}]));
        let start = format!("2026-11-21T07:00:{:0>2}Z", name.len());
        let status = json!({"conditions": conditions, "startTime": start, "completionTime": condition.map(|_| "2026-11-21T08:04:00Z")});
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name, "uid": name, "namespace": "ns", "annotations": {SCHEDULED_AT: "then"}}, "status": status}),
            )
            .unwrap(),
        )
    }

    fn seen(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Vec<String> {
        let text = |action: Action| match action {
            Action::Create { target, .. } => format!("+{}", target.name),
            Action::Delete { target, .. } => format!("-{}", target.name),
            Action::Tell(note) => note.reason.to_owned(),
            Action::Again(left) => format!("again {}", left.as_secs()),
            Action::Patch { patch: action::Patch::Merge(patch), .. } => {
                patch["status"]["lastScheduleTime"].as_str().unwrap_or("status").to_owned()
            }
            other => panic!("{other:?}"),
        };
        plan(cron, jobs, now.parse().unwrap()).into_iter().map(text).collect()
    }

    #[test]
    fn a_due_job_is_made_once_under_its_minutes_name() {
        let never = cron(json!({}), None);
        assert_eq!(seen(&never, &[], "2026-11-21T08:04:00Z"), ["again 60"]);
        let name = format!("c-{}", "2026-11-21T08:05:00Z".parse::<Timestamp>().unwrap().as_second() / 60);
        assert_eq!(
            seen(&never, &[], "2026-11-21T08:05:01Z"),
            ["again 299".to_owned(), format!("+{name}"), "2026-11-21T08:05:00Z".into()]
        );
        let once = cron(json!({}), Some("2026-11-21T08:05:00Z"));
        assert_eq!(seen(&once, &[], "2026-11-21T08:06:00Z"), ["again 240"]);
        let made = seen(&never, &[job(&name, None)], "2026-11-21T08:05:01Z");
        assert!(!made.iter().any(|what| what.starts_with('+')), "it is there already: {made:?}");
    }

    #[test]
    fn concurrency_deadline_and_suspension_are_kept() {
        let at = "2026-11-21T08:05:01Z";
        let forbid = cron(json!({"concurrencyPolicy": "Forbid"}), None);
        assert_eq!(seen(&forbid, &[job("old", None)], at)[1], "JobAlreadyActive");
        let replace = cron(json!({"concurrencyPolicy": "Replace"}), None);
        assert_eq!(seen(&replace, &[job("old", None)], at)[1], "-old");
        let suspended = cron(json!({"suspend": true}), None);
        assert!(seen(&suspended, &[], at).is_empty());
        let late = cron(json!({"startingDeadlineSeconds": 30}), None);
        assert_eq!(seen(&late, &[], "2026-11-21T08:06:00Z"), ["again 240"]);
        assert_eq!(seen(&cron(json!({"schedule": "bad"}), None), &[], at), ["UnparseableSchedule"]);
        assert_eq!(seen(&cron(json!({"timeZone": "Mars/Olympus"}), None), &[], at), ["UnknownTimeZone"]);
    }

    #[test]
    fn a_job_that_somebody_else_made_runs_beside_the_schedule() {
        let mut by_hand = Job::clone(&job("by-hand", None));
        by_hand.metadata.annotations = None;
        let forbid = cron(json!({"concurrencyPolicy": "Forbid"}), None);
        let what = seen(&forbid, &[Arc::new(by_hand.clone())], "2026-11-21T08:05:01Z");
        assert_eq!(what[0], "UnexpectedJob");
        assert!(what.iter().any(|what| what.starts_with('+')), "{what:?}");
        let mut listed = forbid.clone();
        let active = vec![ObjectReference { uid: Some("by-hand".into()), ..ObjectReference::default() }];
        listed.status.get_or_insert_default().active = Some(active);
        let what = seen(&listed, &[Arc::new(by_hand)], "2026-11-21T08:05:01Z");
        assert!(what.contains(&"JobAlreadyActive".to_owned()), "{what:?}");
    }

    #[test]
    fn history_is_limited_by_kind_of_end() {
        let jobs: Vec<_> = ["a", "aa", "aaa", "aaaa"].iter().map(|name| job(name, Some("Complete"))).collect();
        let limited = cron(json!({"suspend": true}), None);
        assert_eq!(
            seen(&limited, &jobs, "2026-11-21T08:04:00Z"),
            ["-a", "status"],
            "three are kept, and success is noted"
        );
        let failed: Vec<_> = ["a", "aa"].iter().map(|name| job(name, Some("Failed"))).collect();
        assert_eq!(seen(&limited, &failed, "2026-11-21T08:04:00Z"), ["-a"]);
    }

    #[test]
    fn a_long_absence_starts_one_job_and_says_so() {
        let old = cron(json!({}), Some("2026-11-01T00:00:00Z"));
        let what = seen(&old, &[], "2026-11-21T08:06:00Z");
        assert_eq!(what[1], "TooManyMissedTimes");
        assert_eq!(what.iter().filter(|what| what.starts_with('+')).count(), 1);
        assert_eq!(what.last().unwrap(), "2026-11-21T08:05:00Z", "the latest");
    }
}
