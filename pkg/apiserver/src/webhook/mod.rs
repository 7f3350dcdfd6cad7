//! HTTPS to programs outside that are asked about objects: admission webhooks and conversion webhooks.
mod client;
#[cfg(test)]
pub(crate) mod testing;
mod trust;

pub(crate) use client::{Client, Place};
