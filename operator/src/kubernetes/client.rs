//! The connection to the API server. Every call ends: a server that is frozen,
//! or behind a network that swallows packets, is an error after [`CALL_TIME_MAX`].

use std::{sync::Arc, time::Duration};

use kube::{Client, Config, client::ClientBuilder};

use super::{
    calls::CountCalls,
    error::{CallError, CallResult},
    fence::Fence,
    metrics::Metrics,
};

/// Longest call that is no watch.
pub(super) const CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a watch lasts until the server ends it and it is begun anew. One whose
/// connection died unnoticed tells nothing until then: this bounds how long a change
/// is missed. Shorter costs a request more for each kind and scope.
pub(super) const WATCH_TIME_MAX: Duration = Duration::from_secs(60);
/// A watch that says nothing for so long, though the server should have ended
/// it, is over.
const SILENCE_TIME_MAX: Duration = WATCH_TIME_MAX.saturating_add(Duration::from_secs(15));
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Connects as the environment says: KUBECONFIG, or the Pod's service account.
///
/// # Errors
/// If neither is there or what they say is of no use.
pub(super) async fn connect(metrics: Arc<Metrics>) -> Result<(Client, String), kube::Error> {
    let mut config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    config.connect_timeout = Some(CONNECT_TIME_MAX);
    config.read_timeout = Some(SILENCE_TIME_MAX);
    config.write_timeout = Some(CALL_TIME_MAX);
    // Its back-off grows beyond any bound of ours; when to try again is decided
    // by whoever calls.
    config.default_retry = false;
    let namespace = config.default_namespace.clone();
    let client = ClientBuilder::try_from(config)?
        .with_layer(&CountCalls(metrics))
        .build();
    Ok((client, namespace))
}

/// Reads something, in bounded time.
///
/// # Errors
/// What the server answered, or that it did not.
pub(super) async fn read<T>(
    what: &str,
    call: impl Future<Output = kube::Result<T>>,
) -> CallResult<T> {
    bounded(what, CALL_TIME_MAX, call).await
}

/// Writes something, if we may, and in the time for which we may.
///
/// # Errors
/// That we no longer lead; what the server answered, or that it did not.
pub(super) async fn write<T>(
    fence: &Fence,
    what: &str,
    call: impl Future<Output = kube::Result<T>>,
) -> CallResult<T> {
    let left = fence.time_left().ok_or(CallError::NotLeading)?;
    bounded(what, CALL_TIME_MAX.min(left), call).await
}

async fn bounded<T>(
    what: &str,
    time: Duration,
    call: impl Future<Output = kube::Result<T>>,
) -> CallResult<T> {
    match tokio::time::timeout(time, call).await {
        Ok(answer) => answer.map_err(|error| CallError::answered(what, error)),
        Err(_) => Err(CallError::Silent {
            what: what.to_owned(),
            time,
        }),
    }
}
