//! `/livez`, `/readyz`, `/metrics` and `/status` of the pooler.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use axum::{Json, Router, routing::get};
use proxy_core::status::{ClientCounts, PoolerStatus, ServerCounts};
use web::probes::probes;

use super::{control::Control, exposition};

/// All routes.
pub(super) fn router(control: Arc<Control>) -> Router {
    let hearts = control
        .shared
        .mailboxes
        .iter()
        .map(|mailbox| mailbox.heart.clone())
        .collect();
    let ready = {
        let shared = control.shared.clone();
        move || {
            if shared.pools.is_draining() {
                Err("draining".to_owned())
            } else if shared.listening.load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err("not listening".to_owned())
            }
        }
    };
    let metrics = {
        let control = control.clone();
        move || {
            let control = control.clone();
            async move {
                let view = control.view(false).await;
                exposition::page(&control, &view, Instant::now())
            }
        }
    };
    probes(hearts, ready, metrics).route(
        "/status",
        get(move || {
            let control = control.clone();
            async move { Json(status(&control).await) }
        }),
    )
}

async fn status(control: &Control) -> PoolerStatus {
    let shared = &control.shared;
    let view = control.view(false).await;
    let mut clients = ClientCounts {
        total: shared.clients.load(Ordering::SeqCst),
        max: view.live.config.global.max_client_conn,
        ..ClientCounts::default()
    };
    let mut servers = ServerCounts::default();
    for pool in &view.loops.pools {
        clients.active += pool.clients_active;
        clients.waiting += pool.clients_waiting;
        servers.active += pool.servers_active;
        servers.idle += pool.servers_idle + pool.servers_used;
        servers.login += pool.servers_login;
    }
    PoolerStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: shared.boot_id.clone(),
        state: shared.state(),
        config_revision: shared.live().config.global.config_revision.clone(),
        started_at: shared.started_at,
        listen: shared.listen.clone(),
        clients,
        servers,
        upstream: shared.upstreams.report(),
        upstreams: shared.upstreams.statuses(shared),
        saturation: shared.saturations.report(),
        reloads: control.reloads(),
    }
}
