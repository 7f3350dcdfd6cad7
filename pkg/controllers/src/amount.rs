//! Numbers that may be percentages: `maxSurge`, `maxUnavailable` and their like.
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `value` of `total`, a percentage rounded up or down. What validation lets through always parses; anything else
/// counts as nothing.
pub fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent = text.strip_suffix('%').and_then(|percent| percent.parse::<i64>().ok()).unwrap_or_default();
            let product = percent * i64::from(total);
            let rounded = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// Surge and unavailability of a rolling update. Both zero would never move, so then one may be unavailable.
pub fn fenceposts(surge: Option<&IntOrString>, unavailable: Option<&IntOrString>, total: i32) -> (i32, i32) {
    match (scaled(surge, total, true), scaled(unavailable, total, false)) {
        (0, 0) => (0, 1),
        both => both,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_the_safe_way() {
        let percent = IntOrString::String("25%".into());
        assert_eq!(fenceposts(Some(&percent), Some(&percent), 3), (1, 0));
        assert_eq!(fenceposts(Some(&percent), Some(&percent), 10), (3, 2));
        assert_eq!(fenceposts(None, Some(&percent), 3), (0, 1), "an update must be able to move");
        assert_eq!(fenceposts(Some(&IntOrString::Int(2)), None, 0), (2, 0));
    }
}
