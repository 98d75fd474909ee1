//! Plain HTTP beside gRPC on the API port: metrics and health.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::server::Node;

#[derive(Clone)]
struct Pages {
    node: Arc<Node>,
    metrics: PrometheusHandle,
}

/// Adds the pages to `router`.
pub fn add(router: Router, node: Arc<Node>, metrics: PrometheusHandle) -> Router {
    let pages = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/health", get(health))
        .route("/leaderhealth", get(leader_health))
        .with_state(Pages { node, metrics });
    router.merge(pages).fallback(elsewhere)
}

/// No such page; for gRPC, no such method.
async fn elsewhere(uri: Uri, headers: HeaderMap) -> Response {
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/grpc") {
        return tonic::Status::unimplemented(format!("this replica knows no method {}", uri.path()))
            .into_http();
    }
    let text = format!("there is no page {}; there are /metrics, /health and /leaderhealth\n", uri.path());
    (StatusCode::NOT_FOUND, text).into_response()
}

async fn metrics_page(State(pages): State<Pages>) -> impl IntoResponse {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], pages.metrics.render())
}

/// 200 `OK` while the process serves; says if it belongs to no cluster yet.
async fn health(State(pages): State<Pages>) -> impl IntoResponse {
    match pages.node.running() {
        Ok(_) => (StatusCode::OK, "OK\n".to_owned()),
        Err(status) => (StatusCode::OK, format!("OK, but {}\n", status.message())),
    }
}

/// 200 on the leader alone, else 503 with the leader's address: what a load balancer asks.
async fn leader_health(State(pages): State<Pages>) -> impl IntoResponse {
    let Ok(running) = pages.node.running() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "not in a cluster yet\n".to_owned());
    };
    if running.session().is_some() {
        return (StatusCode::OK, "leader\n".to_owned());
    }
    match running.replica.leadership().borrow().leader.as_ref() {
        Some(member) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("follower; the leader is {}\n", member.api_address))
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "no leader is known\n".to_owned()),
    }
}
