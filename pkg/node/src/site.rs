//! What this server is among the servers of its cluster, kept in its data directory from its first start on.
use crate::config::Server;
use crate::files;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The first server's number in revisions.
const FIRST_NUMBER: u16 = 1;

/// This server among others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Site {
    /// The server's number in revisions.
    pub number: u16,
    /// The server's name among its members.
    pub name: String,
    /// The place that it stands at.
    pub site: String,
    /// Who admitted it; none: it is the first.
    pub admitted_by: Option<Contact>,
    /// Whether it has once had everything of the server that admitted it.
    pub synced: bool,
    /// Whether it was given a site, or has joined: it is, or is to be, one of several.
    pub several: bool,
}

/// How another server is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contact {
    pub number: u16,
    pub name: String,
    pub site: String,
    /// `HOST:PORT`.
    pub address: String,
    /// The certificate of its intermediate CA, and those between it and the root, in PEM.
    #[serde(default)]
    pub authority: String,
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("server/site.json")
}

impl Site {
    /// What is kept.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn load(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = path(data_dir);
        let Some(text) = files::read_if_there(&path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).with_context(|| path.display().to_string())
    }

    /// Keeps it from now on.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save(&self, data_dir: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        Ok(files::write(&path(data_dir), text.as_bytes(), 0o600)?)
    }

    /// The first server of a cluster.
    pub fn first(config: &Server, name: &str) -> Self {
        Self {
            number: FIRST_NUMBER,
            name: name.to_owned(),
            site: config.site.clone().unwrap_or_else(|| name.to_owned()),
            admitted_by: None,
            synced: true,
            several: config.site.is_some(),
        }
    }

    /// What is kept, with what the flags change.
    ///
    /// # Errors
    /// The flags say something that can't be changed any more.
    pub fn open(config: &Server, name: &str) -> anyhow::Result<Self> {
        let mut site = match Self::load(&config.data_dir)? {
            Some(kept) => kept,
            None => Self::first(config, name),
        };
        if let Some(wanted) = config.site.as_ref().filter(|wanted| **wanted != site.site) {
            anyhow::ensure!(
                !site.several,
                "this server stands at site {:?}; moving it to {wanted:?} needs a new server that joins from there",
                site.site
            );
            (site.site, site.several) = (wanted.clone(), true);
        }
        site.save(&config.data_dir)?;
        Ok(site)
    }
}
