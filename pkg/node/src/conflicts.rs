//! `eyot conflicts`: concurrent writes of which one lost, as the server that is asked has recorded them.
use crate::peers::CONFLICTS;
use crate::status::{Place, client};
use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;
use std::io::Write;
use std::time::Duration;

/// How often new ones are asked for while watching.
const LOOK: Duration = Duration::from_secs(1);
/// Values are shown up to this many characters.
const WIDTH: usize = 40;

#[derive(Deserialize)]
struct Page {
    items: Vec<Conflict>,
}

#[derive(Deserialize)]
struct Conflict {
    id: u64,
    found: String,
    key: String,
    field: String,
    winner: Side,
    loser: Side,
}

#[derive(Deserialize)]
struct Side {
    value: Option<Value>,
    time: String,
}

/// Prints what was recorded and, if told to, what comes.
///
/// # Errors
/// The API does not answer, or refuses.
pub async fn print(place: &Place, watch: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let client = client(place).await.map_err(anyhow::Error::msg)?;
    writeln!(out, "{:<20}  {:<48}  {:<28}  {:<WIDTH$}  LOST", "FOUND", "OBJECT", "FIELD", "KEPT")?;
    let mut after = 0;
    loop {
        let request = http::Request::get(format!("{CONFLICTS}?after={after}")).body(Vec::new())?;
        let page: Page = client.request(request).await.context("asking for conflicts")?;
        let last = page.items.last().map(|conflict| conflict.id);
        page.items.iter().try_for_each(|conflict| line(out, conflict))?;
        out.flush()?;
        match last {
            Some(last) => after = last,
            None if watch => tokio::time::sleep(LOOK).await,
            None => return Ok(()),
        }
    }
}

fn line(out: &mut impl Write, conflict: &Conflict) -> std::io::Result<()> {
    let object = conflict.key.strip_prefix("/registry/").unwrap_or(&conflict.key);
    let field = if conflict.field.is_empty() { "(all of it)" } else { &conflict.field };
    let found = conflict.found.get(..19).unwrap_or(&conflict.found);
    let (kept, lost) = (side(&conflict.winner), side(&conflict.loser));
    writeln!(out, "{found:<20}  {object:<48}  {field:<28}  {kept:<WIDTH$}  {lost}")
}

/// A value and when it was written.
fn side(side: &Side) -> String {
    let time = side.time.get(11..19).unwrap_or_default();
    let value = side.value.as_ref().map_or_else(|| "(removed)".to_owned(), Value::to_string);
    let room = WIDTH - time.len() - 1;
    let short: String = match value.chars().count() > room {
        true => value.chars().take(room - 1).chain(['…']).collect(),
        false => value,
    };
    format!("{short} {time}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_conflict_is_one_line() {
        let side = |value: &str| json!({"value": value, "time": "2026-01-02T03:04:05.678Z"});
        let conflict: Conflict = serde_json::from_value(json!({
            "id": 1, "found": "2026-01-02T03:05:00.1Z", "key": "/registry/configmaps/default/a", "field": "data.x",
            "winner": side("two"), "loser": side(&"one".repeat(50)),
        }))
        .unwrap();
        let mut out = Vec::new();
        line(&mut out, &conflict).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("configmaps/default/a") && text.contains("\"two\" 03:04:05") && text.contains('…'),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
    }
}
