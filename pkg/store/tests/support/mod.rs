//! What tests of the store open it with.
use api::summary::{Summarize, Summary};
use eyot_store::{Error, Options, Store};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Knows no kind of object.
pub struct Nothing;

impl Summarize for Nothing {
    fn summarize(&self, _: &[u8], _: &[u8]) -> Summary {
        Summary::default()
    }
}

/// Opens or makes the store in `dir`; it keeps more history than a test makes.
pub fn try_open(dir: &Path) -> Result<Arc<Store>, Error> {
    let keep = Duration::from_secs(300);
    Store::open(Options { dir: dir.into(), server: 3, summarize: Arc::new(Nothing), keep })
}

pub fn open(dir: &Path) -> Arc<Store> {
    try_open(dir).unwrap()
}
