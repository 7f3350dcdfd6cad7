//! What was acknowledged and may not be lost. Every write puts a word of its own into a place; a word may only vanish
//! when somebody who saw it wrote over it or removed it, and otherwise it must be found: in the state, or in a conflict
//! that some server recorded.
use serde_json::Value;
use std::collections::BTreeSet;

#[derive(Default)]
pub struct Ledger {
    next: u64,
    /// Words that must be found.
    open: BTreeSet<String>,
    /// Words of writes that lost, as some server recorded.
    told: BTreeSet<String>,
}

impl Ledger {
    /// A word that was never used.
    pub fn word(&mut self) -> String {
        self.next += 1;
        format!("w{}.", self.next)
    }

    /// A write with these words was acknowledged, by somebody who saw what was there before.
    pub fn acknowledged(&mut self, before: Option<&Value>, after: Option<&Value>) {
        let (before, after) = (words(before), words(after));
        for word in before.difference(&after) {
            self.open.remove(word);
        }
        self.open.extend(after.difference(&before).cloned());
    }

    /// A conflict told of this value, which lost.
    pub fn told(&mut self, loser: Option<&Value>) {
        self.told.extend(words(loser));
    }

    /// Words that are neither in any of these values nor were told of.
    pub fn lost<'a>(&self, state: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
        let found: BTreeSet<String> = state.into_iter().flat_map(|value| words(Some(value))).collect();
        self.open.iter().filter(|word| !found.contains(*word) && !self.told.contains(*word)).cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }
}

fn words(value: Option<&Value>) -> BTreeSet<String> {
    value.map(|value| words_of(&value.to_string())).unwrap_or_default()
}

/// `w` and digits and a dot, wherever they are in a text.
fn words_of(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices('w') {
        let digits = text[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
        let end = at + 1 + digits;
        if digits > 0 && text[end..].starts_with('.') {
            found.insert(text[at..=end].to_owned());
        }
    }
    found
}
