//! One breakpoint, as DAP describes it, and in which sessions it holds.
//!
//! This module knows neither whose it is nor what else stands at its place.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::scope;
use crate::selector::{Selector, Subject};

/// A breakpoint as DAP's `SourceBreakpoint` or `FunctionBreakpoint` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Breakpoint {
    /// The number under which its owner knows it; never sent to the process.
    #[serde(skip)]
    pub id: i64,
    /// In which sessions it holds, if not in all.
    #[serde(skip)]
    pub(super) scope: Option<Selector>,
    /// Why the process is not given it, if it is not.
    #[serde(skip)]
    pub(super) withheld: Option<String>,
    /// The helper is asked even if it is alone at its place: it says that it was this one, as not every pydevd does.
    #[serde(skip)]
    pub(super) is_announced: bool,
    /// The line of a source breakpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<i64>,
    /// The function of a function breakpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) condition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hit_condition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) log_message: Option<String>,
    /// What else the client said, for the process to make of it what it can.
    #[serde(flatten)]
    pub(super) other: Map<String, Value>,
}

impl Breakpoint {
    /// Two breakpoints at one place can only be one in the process.
    #[must_use]
    pub fn place(&self) -> Place {
        // A name makes a function breakpoint only where there is no line.
        let name = self.name.clone().filter(|_| self.line.is_none());
        Place {
            line: self.line,
            name,
        }
    }

    /// The line of a source breakpoint.
    #[must_use]
    pub fn line(&self) -> Option<i64> {
        self.line
    }

    /// Why the process is not given it, if it is not.
    #[must_use]
    pub fn withheld(&self) -> Option<&str> {
        self.withheld.as_deref()
    }

    /// Takes the scope off the condition. One that cannot be read holds nowhere: to stop everywhere is not what was
    /// meant.
    pub(super) fn read_scope(&mut self) {
        match scope::read(self.condition.as_deref().unwrap_or_default()) {
            Ok(None) => {}
            Ok(Some(scoped)) => {
                self.scope = Some(scoped.scope);
                self.condition = scoped.condition;
            }
            Err(error) => self.withheld = Some(error.to_string()),
        }
    }

    /// Finds out whether it holds in a session; true if it did otherwise until now.
    pub(super) fn hold_in(&mut self, session: &Subject<'_>) -> bool {
        let Some(scope) = &self.scope else {
            return false;
        };
        let withheld = (!scope.matches(session))
            .then(|| format!("holds only in {scope}, which this process is not"));
        let has_changed = withheld.is_some() != self.withheld.is_some();
        self.withheld = withheld;
        has_changed
    }

    pub(super) fn own(&self) -> Own {
        Own {
            id: self.id,
            withheld: self.withheld.clone(),
        }
    }

    /// Whether the two stop or log at the same times.
    pub(super) fn acts_like(&self, other: &Breakpoint) -> bool {
        (&self.condition, &self.hit_condition, &self.log_message)
            == (&other.condition, &other.hit_condition, &other.log_message)
    }
}

/// Where a breakpoint is, within what its client has set at once: a line of a source, or a function.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub(super) line: Option<i64>,
    name: Option<String>,
}

/// What the owner of a breakpoint is to be told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The owner's number.
    pub id: i64,
    /// Why the process is not given it, if it is not.
    pub withheld: Option<String>,
}
