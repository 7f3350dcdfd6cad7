//! Cron schedules, as `robfig/cron` reads them: five fields or a descriptor such as `@daily`. Pure.
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// How far ahead a next time is looked for; what never comes (30 February) isn't waited for.
const HORIZON_YEARS: i32 = 5;

/// When something is due.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    Fields(Fields),
    /// `@every 1h30m`, in whole seconds.
    Every(i64),
}

/// Which values a time may have: a bit each.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// A star in one of the day fields: then both have to match; otherwise either.
    days_starred: bool,
}

/// What is wrong with a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Schedule {
    /// # Errors
    /// What no schedule is.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if let Some(every) = text.strip_prefix("@every ") {
            let span: SignedDuration =
                every.trim().parse().map_err(|_| Error(format!("failed to parse duration {text}")))?;
            return Ok(Self::Every(span.as_secs().max(1)));
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => return Err(Error(format!("unrecognized descriptor: {other}"))),
            other => other,
        };
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts[..] else {
            return Err(Error(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" "))));
        };
        let starred = |field: &str| field.split(',').any(|part| part == "*" || part == "?" || part.starts_with("*/"));
        let weekday_bits = field(weekdays, 0, 7, DAYS)?;
        Ok(Self::Fields(Fields {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, MONTHS)?,
            // Both 0 and 7 are Sunday.
            weekdays: (weekday_bits | weekday_bits >> 7) & 0x7f,
            days_starred: starred(days) || starred(weekdays),
        }))
    }

    /// The first time after `after`, in `zone`; `None` when there is none in sight.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(seconds) => Some(after + SignedDuration::from_secs(*seconds)),
            Self::Fields(fields) => fields.next(after, zone),
        }
    }
}

const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const MONTHS: &[&str] = &["", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, Error> {
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let bad = |what: &str| Error(format!("{what}: {part}"));
        let value = |text: &str| {
            let named = names.iter().position(|name| !name.is_empty() && name.eq_ignore_ascii_case(text));
            let number = named.map(|n| n as u32).or_else(|| text.parse().ok());
            number.ok_or_else(|| Error(format!("failed to parse int from {text}")))
        };
        let (from, to) = match (range, range.split_once('-')) {
            ("*" | "?", _) => (min, if names.len() == 7 { 6 } else { max }),
            (_, Some((from, to))) => (value(from)?, value(to)?),
            // `5/15` runs from 5 to the end.
            (one, None) => (value(one)?, if step.is_some() { max } else { value(one)? }),
        };
        let step: u32 = step.map_or(Ok(1), |step| step.parse().map_err(|_| bad("failed to parse step")))?;
        if step == 0 || from < min || to > max || from > to {
            return Err(bad("out of range"));
        }
        (from..=to).step_by(step as usize).for_each(|n| bits |= 1u64 << n);
    }
    Ok(bits)
}

fn has(bits: u64, n: i8) -> bool {
    bits & (1 << n) != 0
}

impl Fields {
    fn day_matches(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let either = if self.days_starred { day && weekday } else { day || weekday };
        has(self.months, date.month()) && either
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let local: DateTime = after.to_zoned(zone.clone()).datetime();
        let last_year = i32::from(local.year()) + HORIZON_YEARS;
        let mut date = local.date();
        while i32::from(date.year()) <= last_year {
            if self.day_matches(date) {
                let hours = (0..24).filter(|hour| has(self.hours, *hour));
                let times = hours.flat_map(|hour| {
                    (0..60).filter(|minute| has(self.minutes, *minute)).map(move |minute| date.at(hour, minute, 0, 0))
                });
                // A time that the clock skips in spring doesn't come that day.
                let real = times.filter_map(|time| {
                    let zoned = zone.to_ambiguous_zoned(time).compatible().ok()?;
                    (zoned.datetime() == time).then(|| zoned.timestamp())
                });
                if let Some(next) = real.into_iter().find(|time| *time > after) {
                    return Some(next);
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        let next = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &zone);
        next.map_or("never".into(), |next| next.to_string())
    }

    #[test]
    fn times_follow_the_fields() {
        let utc = |schedule, after| next(schedule, after, "UTC");
        assert_eq!(utc("*/15 * * * *", "2026-11-21T08:01:00Z"), "2026-11-21T08:15:00Z");
        assert_eq!(utc("0 0 29 2 *", "2026-11-21T08:01:00Z"), "2028-02-29T00:00:00Z");
        assert_eq!(utc("0 0 30 2 *", "2026-11-21T08:01:00Z"), "never");
        assert_eq!(utc("30 9 * * MON-FRI", "2026-11-21T08:01:00Z"), "2026-11-23T09:30:00Z");
        assert_eq!(utc("0 0 13 * 5", "2026-11-21T08:01:00Z"), "2026-11-27T00:00:00Z", "the 13th or a Friday");
        assert_eq!(utc("0 0 * * 7", "2026-11-21T08:01:00Z"), "2026-11-22T00:00:00Z");
        assert_eq!(utc("@hourly", "2026-11-21T08:00:00Z"), "2026-11-21T09:00:00Z");
        assert_eq!(utc("@every 90s", "2026-11-21T08:00:00Z"), "2026-11-21T08:01:30Z");
        assert_eq!(utc("5/20 1,2 * * *", "2026-11-21T02:30:00Z"), "2026-11-21T02:45:00Z");
    }

    #[test]
    fn zones_and_their_clock_changes_count() {
        assert_eq!(next("0 9 * * *", "2026-11-21T12:00:00Z", "America/New_York"), "2026-11-21T14:00:00Z");
        assert_eq!(
            next("30 2 * * *", "2026-03-07T12:00:00Z", "America/New_York"),
            "2026-03-09T06:30:00Z",
            "2:30 is skipped on the 8th"
        );
    }

    #[test]
    fn bad_schedules_are_refused() {
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "*/0 * * * *",
            "5-1 * * * *",
            "@never",
            "x * * * *",
        ] {
            assert!(Schedule::parse(bad).is_err(), "{bad:?}");
        }
    }
}
