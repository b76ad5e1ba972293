//! The system monitor: what the host has, and how much of it is used.
//!
//! It looks when somebody asks, and not oftener than it makes sense. It knows no session.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, System};

/// How old what is answered may be.
const FRESH: Duration = MINIMUM_CPU_UPDATE_INTERVAL;

/// What was last seen of the host.
pub struct SystemMonitor {
    /// None where the system does not tell.
    system: Option<System>,
    looked: Option<Instant>,
}

impl Default for SystemMonitor {
    fn default() -> Self {
        SystemMonitor {
            system: System::new().ok(),
            looked: None,
        }
    }
}

impl fmt::Debug for SystemMonitor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SystemMonitor")
            .field("looked", &self.looked)
            .finish_non_exhaustive()
    }
}

impl SystemMonitor {
    /// What is known of the host.
    pub fn statistics(&mut self, now: Instant) -> Value {
        let age = self
            .looked
            .map(|looked| now.saturating_duration_since(looked));
        let Some(system) = &mut self.system else {
            return json!({});
        };
        if age.is_none_or(|age| age >= FRESH) {
            system.refresh_memory();
            system.refresh_cpu_usage();
            self.looked = Some(now);
        }
        let load = System::load_average().ok();
        let load = load.map(|load| [load.one, load.five, load.fifteen]);
        json!({
            "cpus": system.cpus().len(),
            // A share of all processors since it was last asked; the first answer has none.
            "cpu": age.map(|_| f64::from(system.global_cpu_usage()) / 100.0),
            "memory": { "total": system.total_memory(), "available": system.available_memory() },
            "swap": { "total": system.total_swap(), "free": system.free_swap() },
            "load": load,
        })
    }
}
