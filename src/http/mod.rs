//! HTTP on the same port: health, figures for Prometheus, and the verbs as JSON.
//!
//! A browser can be made to send requests to this machine by any page, so a request must name us as its host
//! (a rebound DNS name does not), come from no foreign page, and change nothing unless it is a POST with
//! `application/json` (which a foreign page cannot send).
//! This module knows no DAP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::control::{self, Access, Code, Error, Events};
use crate::hub::Hub;
use crate::monitor::metrics;
use crate::pump::LAST_FLUSH;

/// How long a peer may take to send the head of its request.
const HEAD_WAIT: Duration = Duration::from_secs(30);

/// How often a stream of events says that it is still there, so that one that nobody reads is noticed.
const ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Serves one connection until it closes or the daemon stops.
pub(crate) async fn serve(
    hub: Arc<Hub>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let stop = hub.stop.clone();
    let service = TowerToHyperService::new(router(hub));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(%error, "an HTTP connection failed");
            }
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(LAST_FLUSH, connection).await;
        }
    }
}

fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(figures))
        .route("/api/v1/events", get(events))
        .route("/api/v1/{verb}", get(get_verb).post(post_verb))
        .method_not_allowed_fallback(|| async { bad_request("this is asked with another method") })
        .fallback(|| async { failure(&Error::new(Code::NotFound, "there is nothing here")) })
        .layer(from_fn(guard))
        .with_state(hub)
}

/// `GET /api/v1/VERB?key=value`: a verb that changes nothing.
async fn get_verb(
    State(hub): State<Arc<Hub>>,
    verb: Result<Path<String>, PathRejection>,
    arguments: Result<Query<BTreeMap<String, String>>, QueryRejection>,
) -> Response {
    match (verb, arguments) {
        (Ok(Path(verb)), Ok(Query(arguments))) => match control::access(&verb) {
            Ok(Access::Look) => call(&hub, &verb, &json!(arguments)).await,
            Ok(Access::Touch) => bad_request(&format!(
                "{verb:?} may change something: POST it, with its arguments as application/json"
            )),
            Err(error) => failure(&error),
        },
        (Err(error), _) => bad_request(&error.body_text()),
        (_, Err(error)) => bad_request(&error.body_text()),
    }
}

/// `GET /metrics`: the figures of the daemon and its monitor, for Prometheus.
async fn figures(State(hub): State<Arc<Hub>>) -> Response {
    let ask = async |part: &str| {
        let answer = control::call(&hub, "monitor", &json!({ "part": part }), Access::Look).await;
        // Without a monitor, or one that keeps up, the rest is still worth knowing.
        answer.unwrap_or_default()
    };
    let (monitor, found) = (ask("system").await, ask("findings").await);
    let states: Vec<_> = hub
        .sessions()
        .iter()
        .map(|session| session.info().state)
        .collect();
    let text = metrics::render(&states, hub.opened(), &monitor, &found);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

/// `GET /api/v1/events`: what happens to sessions and what the monitor finds from now on, as `text/event-stream`.
async fn events(State(hub): State<Arc<Hub>>) -> Response {
    let events = stream::unfold(Events::follow(&hub), |mut events| async move {
        let (name, body) = events.next().await?.event();
        let event = Event::default().event(name).data(body.to_string());
        Some((Ok::<_, Infallible>(event), events))
    });
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(ALIVE_INTERVAL))
        .into_response()
}

/// `POST /api/v1/VERB` with the arguments as a JSON object.
async fn post_verb(
    State(hub): State<Arc<Hub>>,
    verb: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let (verb, body) = match (verb, body) {
        (Ok(Path(verb)), Ok(body)) => (verb, body),
        (Err(error), _) => return bad_request(&error.body_text()),
        (_, Err(error)) => return bad_request(&error.body_text()),
    };
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    if kind.split(';').next().unwrap_or_default().trim() != "application/json" {
        return failure(&Error::new(
            Code::BadRequest,
            "the body must be application/json",
        ));
    }
    let arguments: Value = match serde_json::from_slice(if body.is_empty() { b"{}" } else { &body })
    {
        Ok(arguments @ Value::Object(_)) => arguments,
        Ok(_) => {
            return failure(&Error::new(
                Code::BadRequest,
                "the body is not a JSON object",
            ));
        }
        Err(error) => {
            return failure(&Error::new(
                Code::BadRequest,
                format!("the body is not JSON: {error}"),
            ));
        }
    };
    call(&hub, &verb, &arguments).await
}

fn bad_request(why: &str) -> Response {
    failure(&Error::new(Code::BadRequest, why))
}

async fn call(hub: &Hub, verb: &str, arguments: &Value) -> Response {
    match control::call(hub, verb, arguments, Access::Touch).await {
        Ok(body) => Json(body).into_response(),
        Err(error) => failure(&error),
    }
}

fn failure(error: &Error) -> Response {
    let status = match error.code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::BadRequest => StatusCode::BAD_REQUEST,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
    };
    (status, Json(json!({ "error": error }))).into_response()
}

/// Lets in only who means us, and no foreign page.
async fn guard(request: Request, next: Next) -> Response {
    match refused(request.method(), request.headers()) {
        Some(error) => failure(&error),
        None => next.run(request).await,
    }
}

fn refused(method: &Method, headers: &HeaderMap) -> Option<Error> {
    let text = |name| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let host = text(header::HOST).unwrap_or_default();
    if !is_loopback(host) {
        let why =
            format!("the host {host:?} is not this machine's own: use 127.0.0.1 or localhost");
        return Some(Error::new(Code::Forbidden, why));
    }
    if text(header::ORIGIN).is_some_and(|origin| origin.strip_prefix("http://") != Some(host)) {
        return Some(Error::new(
            Code::Forbidden,
            "requests from other pages are not answered",
        ));
    }
    if ![Method::GET, Method::HEAD, Method::POST].contains(method) {
        return Some(Error::new(
            Code::BadRequest,
            format!("{method} means nothing here: use GET or POST"),
        ));
    }
    None
}

/// Whether a `Host` names the loopback: an address of it, or `localhost` itself, which no DNS server can rebind.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() =>
        {
            name
        }
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_the_loopback_is_our_host() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:5678",
            "localhost",
            "LocalHost:1",
            "[::1]:5678",
            "[::1]",
            "127.9.9.9:80",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "localhost6",
            "localhost.evil.example",
            "evil.example:5678",
            "0.0.0.0",
            "[::]:1",
            "192.168.0.1",
            "127.0.0.1.nip.io:80",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
