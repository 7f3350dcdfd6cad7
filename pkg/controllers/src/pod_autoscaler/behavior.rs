//! How fast replicas may follow a proposal: limits of rate, and the calm of recent proposals
//! (Kubernetes documentation, "Horizontal Pod Autoscaling: Configurable scaling behavior"). Pure.
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// How long a high proposal keeps replicas up where nothing else is said; upstream's default.
const DOWN_WINDOW: SignedDuration = SignedDuration::from_mins(5);
/// The longest window that the API takes, and so the oldest proposal and change that matter.
const OLDEST: SignedDuration = SignedDuration::from_hours(1);
/// Proposals and changes kept of each kind: an hour of one every 15 s, and some more.
const KEPT: usize = 512;
/// Without rules a step up doubles, and goes to at least this many.
const MIN_STEP: i32 = 4;

/// What was proposed and done to one target.
#[derive(Clone, Debug, Default)]
pub struct History {
    proposals: Vec<(Timestamp, i32)>,
    ups: Vec<(Timestamp, i32)>,
    downs: Vec<(Timestamp, i32)>,
}

/// What the autoscaler is held to.
pub struct Limits<'a> {
    pub min: i32,
    pub max: i32,
    pub behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
}

/// A condition's status, reason and message.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub status: bool,
    pub reason: &'static str,
    pub message: &'static str,
}

/// What is done about a proposal.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub replicas: i32,
    pub able_to_scale: Said,
    pub scaling_limited: Said,
}

impl History {
    /// Before the first proposal there was what there is.
    pub fn begin(&mut self, current: i32, now: Timestamp) {
        if self.proposals.is_empty() {
            self.proposals.push((now, current));
        }
    }

    /// Replicas were changed.
    pub fn scaled(&mut self, from: i32, to: i32, now: Timestamp) {
        let (changes, count) = if to > from { (&mut self.ups, to - from) } else { (&mut self.downs, from - to) };
        remember(changes, count, now);
    }

    fn changed(changes: &[(Timestamp, i32)], period_s: i32, now: Timestamp) -> i32 {
        let since = SignedDuration::from_secs(i64::from(period_s));
        changes.iter().filter(|(at, _)| now.duration_since(*at) < since).map(|(_, count)| count).sum()
    }

    fn within(&self, window: SignedDuration, now: Timestamp) -> impl Iterator<Item = i32> {
        self.proposals.iter().filter(move |(at, _)| now.duration_since(*at) < window).map(|(_, replicas)| *replicas)
    }
}

fn remember(list: &mut Vec<(Timestamp, i32)>, value: i32, now: Timestamp) {
    list.retain(|(at, _)| now.duration_since(*at) < OLDEST);
    if list.len() >= KEPT {
        list.remove(0);
    }
    list.push((now, value));
}

/// What to do about a proposal, which is remembered.
pub fn decide(history: &mut History, current: i32, proposed: i32, limits: &Limits<'_>, now: Timestamp) -> Decision {
    let calm = stabilize(history, current, proposed, limits.behavior, now);
    remember(&mut history.proposals, proposed, now);
    let (replicas, reason, message) = match limits.behavior {
        None => by_default(current, calm, limits),
        Some(behavior) => by_rules(history, current, calm, limits, behavior, now),
    };
    let able_to_scale = match calm == proposed {
        true => Said { status: true, reason: "ReadyForNewScale", message: "recommended size matches current size" },
        false if limits.behavior.is_some() && proposed >= current => Said {
            status: true,
            reason: "ScaleUpStabilized",
            message: "recent recommendations were lower than current one, applying the lowest recent recommendation",
        },
        false => Said {
            status: true,
            reason: "ScaleDownStabilized",
            message: "recent recommendations were higher than current one, applying the highest recent recommendation",
        },
    };
    Decision { replicas, able_to_scale, scaling_limited: Said { status: replicas != calm, reason, message } }
}

/// No lower than recent proposals for a step down, and, with rules, no higher for a step up.
fn stabilize(
    history: &History,
    current: i32,
    proposed: i32,
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    now: Timestamp,
) -> i32 {
    let Some(behavior) = behavior else {
        return history.within(DOWN_WINDOW, now).fold(proposed, i32::max);
    };
    let window = |rules: Option<&HPAScalingRules>, default: SignedDuration| {
        let seconds = rules.and_then(|rules| rules.stabilization_window_seconds);
        seconds.map_or(default, |seconds| SignedDuration::from_secs(i64::from(seconds)))
    };
    let up = window(behavior.scale_up.as_ref(), SignedDuration::ZERO);
    let down = window(behavior.scale_down.as_ref(), DOWN_WINDOW);
    let lowest = history.within(up, now).fold(proposed, i32::min);
    let highest = history.within(down, now).fold(proposed, i32::max);
    current.max(lowest).min(highest)
}

type Limited = (i32, &'static str, &'static str);

const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_FAST_UP: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

fn limited(replicas: i32, (reason, message): (&'static str, &'static str)) -> Limited {
    (replicas, reason, message)
}

fn by_default(current: i32, wanted: i32, limits: &Limits<'_>) -> Limited {
    let step = current.saturating_mul(2).max(MIN_STEP);
    let (top, why) = if limits.max > step { (step, TOO_FAST_UP) } else { (limits.max, TOO_MANY) };
    match wanted {
        _ if wanted < limits.min => limited(limits.min, TOO_FEW),
        _ if wanted > top => limited(top, why),
        _ => limited(wanted, WITHIN),
    }
}

fn by_rules(
    history: &History,
    current: i32,
    wanted: i32,
    limits: &Limits<'_>,
    behavior: &HorizontalPodAutoscalerBehavior,
    now: Timestamp,
) -> Limited {
    if wanted > current {
        let rate = rate(history, current, behavior.scale_up.as_ref(), true, now).max(current);
        let (top, why) = if limits.max > rate { (rate, TOO_FAST_UP) } else { (limits.max, TOO_MANY) };
        if wanted > top {
            return limited(top, why);
        }
    } else if wanted < current {
        let rate = rate(history, current, behavior.scale_down.as_ref(), false, now).min(current);
        let (bottom, why) = if limits.min < rate { (rate, TOO_FAST_DOWN) } else { (limits.min, TOO_FEW) };
        if wanted < bottom {
            return limited(bottom, why);
        }
    }
    limited(wanted, WITHIN)
}

/// Kind, value, period in seconds.
type Policy<'a> = (&'a str, i32, i32);

/// How far the policies let replicas go now.
fn rate(history: &History, current: i32, rules: Option<&HPAScalingRules>, up: bool, now: Timestamp) -> i32 {
    const UP: [Policy<'static>; 2] = [("Pods", 4, 15), ("Percent", 100, 15)];
    const DOWN: [Policy<'static>; 1] = [("Percent", 100, 15)];
    let select = rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let given: Option<Vec<Policy<'_>>> = rules.and_then(|rules| rules.policies.as_ref()).map(|policies| {
        policies.iter().map(|policy| (policy.type_.as_str(), policy.value, policy.period_seconds)).collect()
    });
    let policies = given.unwrap_or_else(|| if up { UP.to_vec() } else { DOWN.to_vec() });
    let far = policies.iter().map(|policy| reach(history, current, policy, up, now));
    // The largest change is the highest count on the way up and the lowest on the way down.
    let furthest = if (select == "Max") == up { far.max() } else { far.min() };
    furthest.unwrap_or(current)
}

fn reach(history: &History, current: i32, (kind, value, period_s): &Policy<'_>, up: bool, now: Timestamp) -> i32 {
    let added = History::changed(&history.ups, *period_s, now);
    let removed = History::changed(&history.downs, *period_s, now);
    let start = current - added + removed;
    match (*kind, up) {
        ("Pods", true) => start.saturating_add(*value),
        ("Pods", false) => start.saturating_sub(*value),
        (_, true) => (f64::from(start) * (1.0 + f64::from(*value) / 100.0)).ceil() as i32,
        (_, false) => (f64::from(start) * (1.0 - f64::from(*value) / 100.0)) as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn behavior(json: Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn by_default_up_at_once_and_down_after_a_while() {
        let limits = Limits { min: 1, max: 20, behavior: None };
        let mut history = History::default();
        history.begin(2, at(0));
        let up = decide(&mut history, 2, 9, &limits, at(0));
        assert_eq!((up.replicas, up.scaling_limited.reason), (4, "ScaleUpLimit"));
        let up = decide(&mut history, 4, 9, &limits, at(15));
        assert_eq!((up.replicas, up.scaling_limited.reason), (8, "ScaleUpLimit"));
        let calm = decide(&mut history, 8, 1, &limits, at(100));
        assert_eq!((calm.replicas, calm.able_to_scale.reason), (9, "ScaleDownStabilized"));
        let down = decide(&mut history, 8, 1, &limits, at(316));
        assert_eq!((down.replicas, down.able_to_scale.reason), (1, "ReadyForNewScale"));
        let few = decide(&mut history, 8, 0, &limits, at(1_000));
        assert_eq!((few.replicas, few.scaling_limited.reason), (1, "TooFewReplicas"));
        assert_eq!(decide(&mut history, 15, 40, &limits, at(2_000)).scaling_limited.reason, "TooManyReplicas");
    }

    #[test]
    fn rules_limit_the_rate() {
        let rules = behavior(json!({
            "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Min", "policies": [
                {"type": "Pods", "value": 1, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]}}));
        let limits = Limits { min: 1, max: 20, behavior: Some(&rules) };
        let mut history = History::default();
        assert_eq!(decide(&mut history, 4, 10, &limits, at(0)).replicas, 6);
        history.scaled(4, 6, at(0));
        let again = decide(&mut history, 6, 10, &limits, at(30));
        assert_eq!((again.replicas, again.scaling_limited.reason), (6, "ScaleUpLimit"), "not within the same minute");
        assert_eq!(decide(&mut history, 6, 10, &limits, at(60)).replicas, 8);
        assert_eq!(decide(&mut history, 6, 1, &limits, at(200)).replicas, 5, "the smaller step of the two");
        let never = behavior(json!({"scaleDown": {"selectPolicy": "Disabled"}}));
        let limits = Limits { min: 1, max: 20, behavior: Some(&never) };
        assert_eq!(decide(&mut History::default(), 6, 1, &limits, at(0)).replicas, 6);
    }

    #[test]
    fn recent_proposals_calm_both_ways() {
        let rules = behavior(
            json!({"scaleUp": {"stabilizationWindowSeconds": 60}, "scaleDown": {"stabilizationWindowSeconds": 60}}),
        );
        let limits = Limits { min: 1, max: 20, behavior: Some(&rules) };
        let mut history = History::default();
        history.begin(4, at(0));
        let early = decide(&mut history, 4, 6, &limits, at(30));
        assert_eq!((early.replicas, early.able_to_scale.reason), (4, "ScaleUpStabilized"));
        assert_eq!(decide(&mut history, 4, 8, &limits, at(61)).replicas, 6, "the lowest of the last minute");
        assert_eq!(decide(&mut history, 8, 2, &limits, at(80)).replicas, 8);
    }
}
