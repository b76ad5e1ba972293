//! The monitor's report, read again and again until it says what a test waits for.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::daemon::Daemon;
use super::wait::within;

/// How long it is until the report is read again.
const AGAIN: Duration = Duration::from_millis(10);

/// The report as soon as it says something.
pub async fn report(daemon: &Daemon, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let asking = async {
        loop {
            let (status, report) = daemon.verb("report", json!({})).await;
            assert_eq!(status, 200, "{report}");
            if is_so(&report) {
                return report;
            }
            sleep(AGAIN).await;
        }
    };
    within(what, asking).await
}

/// The report as soon as there is a finding of this kind that has not ended.
pub async fn found(daemon: &Daemon, kind: &str) -> Value {
    report(daemon, kind, |it| !open(it, kind).is_empty()).await
}

/// The report as soon as there is none of this kind, or no more.
pub async fn gone(daemon: &Daemon, kind: &str) -> Value {
    let what = format!("the end of {kind}");
    report(daemon, &what, |it| open(it, kind).is_empty()).await
}

/// The findings of a kind that have not ended.
pub fn open<'a>(report: &'a Value, kind: &str) -> Vec<&'a Value> {
    let findings = report["findings"].as_array().expect("it lists findings");
    let is_open = |it: &&Value| it["kind"] == kind && it["ended"].is_null();
    findings.iter().filter(is_open).collect()
}
