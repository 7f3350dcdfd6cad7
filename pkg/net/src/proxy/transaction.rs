//! The difference between two rulesets as one nft script, which nft applies whole or not at all.
use super::model::Base;
use super::render::{self, Ruleset};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Elements in one command: each command costs nft more than an element does, and a line must stay readable.
const BATCH: usize = 256;

/// The script that replaces whatever the table holds.
pub fn replace(base: &Base, new: &Ruleset) -> String {
    let table = &base.table;
    // Adding it first makes the deletion succeed where there is none.
    let mut script = format!("table inet {table}\ndelete table inet {table}\n{}", render::base(base));
    script.push_str(&update(base, &Ruleset::default(), new));
    script
}

/// The script that turns `old` into `new`; empty when they are the same.
pub fn update(base: &Base, old: &Ruleset, new: &Ruleset) -> String {
    let mut script = Script { table: &base.table, text: String::new() };
    // What is referred to comes before what refers to it, and goes after it.
    script.add_sets(old, new);
    script.add_chains(old, new);
    script.fill_chains(old, new);
    script.change_elements(old, new);
    script.remove_chains(old, new);
    script.remove_sets(old, new);
    script.text
}

struct Script<'a> {
    table: &'a str,
    text: String,
}

impl Script<'_> {
    fn line(&mut self, verb: &str, kind: &str, rest: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{verb} {kind} inet {} {rest}", self.table);
    }

    fn add_sets(&mut self, old: &Ruleset, new: &Ruleset) {
        for (name, set) in new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
            self.line("add", "set", &format!("{name} {}", set.declaration));
        }
    }

    fn add_chains(&mut self, old: &Ruleset, new: &Ruleset) {
        for name in new.chains.keys().filter(|name| !old.chains.contains_key(*name)) {
            self.line("add", "chain", name);
        }
    }

    fn fill_chains(&mut self, old: &Ruleset, new: &Ruleset) {
        for (name, rules) in &new.chains {
            match old.chains.get(name) {
                Some(same) if same == rules => continue,
                Some(_) => self.line("flush", "chain", name),
                None => {}
            }
            for rule in rules {
                self.line("add", "rule", &format!("{name} {rule}"));
            }
        }
    }

    fn change_elements(&mut self, old: &Ruleset, new: &Ruleset) {
        let mut gone: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((map, key), value) in old.elements.iter().filter(|(key, value)| new.elements.get(*key) != Some(*value)) {
            gone.entry(*map).or_default().push(format!("{key}{}", assigned(value)));
        }
        let mut fresh: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((map, key), value) in new.elements.iter().filter(|(key, value)| old.elements.get(*key) != Some(*value)) {
            fresh.entry(*map).or_default().push(format!("{key}{}", assigned(value)));
        }
        for (name, set) in &new.sets {
            let before = old.sets.get(name).map(|set| &set.members);
            let (is, was) = (
                |member: &&String| set.members.contains(*member),
                |member: &&String| before.is_some_and(|before| before.contains(*member)),
            );
            gone.insert(name, before.into_iter().flatten().filter(|member| !is(member)).cloned().collect());
            fresh.insert(name, set.members.iter().filter(|member| !was(member)).cloned().collect());
        }
        self.elements("delete", gone);
        self.elements("add", fresh);
    }

    fn elements(&mut self, verb: &str, elements: BTreeMap<&str, Vec<String>>) {
        for (set, elements) in elements {
            for batch in elements.chunks(BATCH) {
                self.line(verb, "element", &format!("{set} {{ {} }}", batch.join(", ")));
            }
        }
    }

    fn remove_chains(&mut self, old: &Ruleset, new: &Ruleset) {
        let gone: Vec<_> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
        for name in &gone {
            self.line("flush", "chain", name);
        }
        for name in gone {
            self.line("delete", "chain", name);
        }
    }

    fn remove_sets(&mut self, old: &Ruleset, new: &Ruleset) {
        for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
            self.line("delete", "set", name);
        }
    }
}

fn assigned(value: &str) -> String {
    if value.is_empty() { String::new() } else { format!(" : {value}") }
}
