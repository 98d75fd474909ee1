//! The pages of an agent whose hosts are simulated: metrics, health, a list of the hosts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use proto::HostId;

use super::{Fleet, HostView};

/// The pages.
pub fn router(fleet: Arc<Fleet>, metrics: PrometheusHandle) -> Router {
    let render = async move || {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
    };
    Router::new()
        .route("/metrics", get(render))
        .route("/health", get(async || "OK\n"))
        .route("/hosts", get(hosts))
        .fallback(nothing)
        .with_state(fleet)
}

async fn hosts(State(fleet): State<Arc<Fleet>>) -> axum::Json<serde_json::Value> {
    let host = |(index, view): (usize, &HostView)| {
        serde_json::json!({
            "name": fleet.name_of(index as u32),
            "host_id": HostId(view.host_id.load(Ordering::Relaxed)).to_string(),
            "registered": view.registered.load(Ordering::Relaxed),
            "live": view.live.load(Ordering::Relaxed),
            "ended": view.ended.load(Ordering::Relaxed),
        })
    };
    axum::Json(fleet.views.iter().enumerate().map(host).collect())
}

async fn nothing() -> impl IntoResponse {
    let why = "this host is simulated: its tasks only pretend to run, and have no sandboxes and no logs\n";
    (StatusCode::NOT_FOUND, why)
}
