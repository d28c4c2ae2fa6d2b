//! What is asked of the API server.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::KubeConfigOptions,
    core::{ApiResource, DynamicObject},
};

use super::{Happening, Overview, Reading};
use crate::api::{KIND, PgPoolCluster, PgPoolClusterStatus};

/// Longest call; all of them together take three at most.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// Clusters that are named where one was not found.
const NAMES_MAX: u32 = 50;
/// Events that are read.
const EVENTS_MAX: u32 = 200;

/// Which cluster is meant.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Its name; may be left out where there is just one.
    pub name: Option<String>,
    /// Its namespace; the context's if there is none.
    pub namespace: Option<String>,
    /// The context of the KUBECONFIG; the current one if there is none.
    pub context: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no API server that could be asked.
    #[error(
        "cannot find the API server: {0}; set KUBECONFIG to a file that names one. A tier of `operator local` answers on http://127.0.0.1:8080/status"
    )]
    Connect(String),
    /// It has no such kind.
    #[error(
        "this API server knows no {KIND}s: install Poolkeeper in it, or pipe `operator crd` into `kubectl apply -f -`"
    )]
    NoKind,
    /// It did not say.
    #[error("cannot {what}: {why}")]
    Call {
        /// What was tried.
        what: String,
        /// What came of it.
        why: String,
    },
    /// There is no such cluster.
    #[error("there is no {KIND} {name} in namespace {namespace}; {}", those(.there))]
    NotFound {
        /// Which was asked for.
        name: String,
        /// Where.
        namespace: String,
        /// Those that are there.
        there: Vec<String>,
    },
    /// None was named, and there is not just one.
    #[error("say which {KIND} of namespace {namespace} is meant; {}", those(.there))]
    WhichOne {
        /// Where.
        namespace: String,
        /// Those that are there.
        there: Vec<String>,
    },
    /// A version of the operator wrote it that this program does not know.
    #[error("cannot read the status of {name}: {why}; use the operator's version of this program")]
    Status {
        /// Whose.
        name: String,
        /// Why not.
        why: String,
    },
}

fn those(there: &[String]) -> String {
    match there {
        [] => "there is none (-n NAMESPACE asks in another one)".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    }
}

/// Asks the API server how a cluster does.
///
/// # Errors
/// If it cannot be asked, or there is no such cluster.
pub async fn ask(question: &Question) -> Result<Overview, AskError> {
    let (client, default) = connect(question.context.clone()).await?;
    let namespace = question.namespace.clone().unwrap_or(default);
    let kind = ApiResource::erase::<PgPoolCluster>(&());
    // The object as it is: one whose spec cannot be read has a status all the same.
    let clusters: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &kind);
    let name = match &question.name {
        Some(name) => name.clone(),
        None => only(&clusters, &namespace).await?,
    };
    let what = format!("get {KIND} {name}");
    let Some(object) = call(&what, clusters.get_opt(&name)).await? else {
        return Err(AskError::NotFound {
            there: names(&clusters).await?,
            name,
            namespace,
        });
    };
    let status = match object.data.get("status") {
        None => None,
        Some(status) => Some(
            serde_json::from_value::<PgPoolClusterStatus>(status.clone()).map_err(|error| {
                AskError::Status {
                    name: name.clone(),
                    why: error.to_string(),
                }
            })?,
        ),
    };
    let uid = object.metadata.uid.unwrap_or_default();
    let events = events(&client, &namespace, &uid).await;
    Ok(Overview::of(Reading {
        name,
        namespace,
        generation: object.metadata.generation,
        status,
        events: events.map_err(|error| error.to_string()),
    }))
}

async fn connect(context: Option<String>) -> Result<(Client, String), AskError> {
    let connect = |error: &dyn std::fmt::Display| AskError::Connect(error.to_string());
    let mut config = match context {
        None => Config::infer().await.map_err(|error| connect(&error))?,
        Some(context) => {
            let options = KubeConfigOptions {
                context: Some(context),
                ..KubeConfigOptions::default()
            };
            let config = Config::from_kubeconfig(&options).await;
            config.map_err(|error| connect(&error))?
        }
    };
    config.connect_timeout = Some(CALL_TIME_MAX);
    // Someone waits for the answer.
    config.default_retry = false;
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|error| connect(&error))?;
    Ok((client, namespace))
}

async fn only(clusters: &Api<DynamicObject>, namespace: &str) -> Result<String, AskError> {
    let there = names(clusters).await?;
    match <[String; 1]>::try_from(there) {
        Ok([name]) => Ok(name),
        Err(there) => Err(AskError::WhichOne {
            namespace: namespace.to_owned(),
            there,
        }),
    }
}

async fn names(clusters: &Api<DynamicObject>) -> Result<Vec<String>, AskError> {
    let some = ListParams::default().limit(NAMES_MAX);
    let what = format!("list {KIND}s");
    match call(&what, clusters.list_metadata(&some)).await {
        Ok(list) => Ok(list
            .items
            .into_iter()
            .filter_map(|one| one.metadata.name)
            .collect()),
        Err(error) => Err(error),
    }
}

async fn events(client: &Client, namespace: &str, uid: &str) -> Result<Vec<Happening>, AskError> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let ours = ListParams::default()
        .fields(&format!("involvedObject.uid={uid}"))
        .limit(EVENTS_MAX);
    let list = call("list Events", events.list(&ours)).await?;
    Ok(list.items.into_iter().filter_map(happening).collect())
}

fn happening(event: Event) -> Option<Happening> {
    let series = event.series.and_then(|series| series.last_observed_time);
    let at: Timestamp = match (series.or(event.event_time), event.last_timestamp) {
        (Some(at), _) => at.0,
        (None, Some(at)) => at.0,
        (None, None) => event.metadata.creation_timestamp?.0,
    };
    Some(Happening {
        at,
        type_: event.type_.unwrap_or_default(),
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
    })
}

async fn call<T>(what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T, AskError> {
    let failed = |why: String| AskError::Call {
        what: what.to_owned(),
        why,
    };
    match tokio::time::timeout(CALL_TIME_MAX, call).await {
        Ok(Ok(answer)) => Ok(answer),
        // Only of a kind that is not there is a list not found.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(AskError::NoKind),
        Ok(Err(kube::Error::Api(status))) => Err(failed(status.message.clone())),
        Ok(Err(error)) => Err(failed(chain(&error))),
        Err(_) => Err(failed(format!(
            "no answer within {} s",
            CALL_TIME_MAX.as_secs()
        ))),
    }
}

/// An error with what caused it: kube's own text often ends where it begins to
/// tell.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
