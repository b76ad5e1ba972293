//! Breakpoints of several clients in one process: what each has asked for, and the union that the process gets.
//!
//! A [`Configuration`] is what one client has set, and [`union()`] makes one of several; the helper that tells apart
//! whose breakpoint was hit is part of the guard that the greeting installs (`session/guard.py`).
//! The daemon's own breakpoints, which are for every process, now and later, are in the [`Store`].
//! This module knows no connection.

mod breakpoint;
mod condition;
mod configuration;
mod exceptions;
mod path;
mod scope;
mod state_file;
mod store;
mod stored;
mod union;

use serde::{Deserialize, Deserializer};

pub use breakpoint::{Breakpoint, Own, Place};
pub use configuration::{Changed, Configuration};
pub use store::{Hit, MAX_STORED, Store};
pub use stored::{MAX_TEXT, Stored};
pub use union::{Lines, Merged, union};

/// Several clients say `null` where they mean an empty list.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
