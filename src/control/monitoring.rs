//! What the monitor knows: the verbs `report` and `monitor`.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use super::arguments::Arguments;
use super::listing::nothing_matches;
use super::{Code, Error};
use crate::hub::Hub;
use crate::monitor::{Part, Question};
use crate::selector::Selector;

/// How long the monitor may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// `report {selector?}`: everything that the monitor knows, what is wrong among it.
pub(super) async fn report(hub: &Hub, mut arguments: Arguments) -> Result<Value, Error> {
    let selector = arguments.selector()?;
    arguments.end()?;
    ask(hub, None, selector).await
}

/// `monitor {part?, selector?}`: a part of it.
pub(super) async fn monitor(hub: &Hub, mut arguments: Arguments) -> Result<Value, Error> {
    let part = arguments.take("part")?;
    let selector = arguments.selector()?;
    arguments.end()?;
    ask(hub, part, selector).await
}

async fn ask(hub: &Hub, part: Option<Part>, selector: Option<Selector>) -> Result<Value, Error> {
    let Some(monitor) = hub.monitor() else {
        let why = "this daemon does not monitor; start it without `--monitor-interval 0`";
        return Err(Error::new(Code::Unavailable, why));
    };
    // Nothing is wrong with nobody, but who names somebody means somebody.
    if let Some(selector) = selector
        .as_ref()
        .filter(|selector| **selector != Selector::default())
        && hub.infos(selector).is_empty()
    {
        return Err(nothing_matches(hub, selector));
    }
    let selector = selector.unwrap_or_default();
    match timeout(ANSWER_WAIT, monitor.ask(Question { part, selector })).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Error::new(Code::Unavailable, "the daemon stops")),
        Err(_) => Err(Error::new(
            Code::Timeout,
            "the monitor does not answer; ask again",
        )),
    }
}
