//! What has been told of a cluster, kept in its ConfigMap `NAME-notifier`.
//!
//! Each write names the version that it replaces, so that a replica that does not
//! lead any more overwrites nothing: who finds another version reads it and goes
//! on from there.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    apply::FIELD_MANAGER,
    client,
    error::{CallError, CallResult, Kind},
    fence::Fence,
    found::Found,
};
use crate::{
    controller::objects::{Owner, notifier_config_map, notifier_name},
    endpoints::Cursors,
    notify::Notifier,
};

/// The ConfigMap's keys.
const TOLD: &str = "told.json";
const CURSORS: &str = "cursors.json";
/// How long it may be that only cursors are newer than what is kept: nothing that
/// they passed over was told to anybody.
const CURSORS_LAG_MAX: Duration = Duration::from_secs(5);

/// Writes without an answer that are remembered.
const UNANSWERED_MAX: usize = 4;

/// What a successor has to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Who was told what.
    pub(super) notifier: Notifier,
    /// The value of the annotation that asked for a test message last.
    pub(super) tested: Option<String>,
    /// How far the balancers' logs of transitions are in it.
    pub(super) cursors: Cursors,
}

/// The form of [`TOLD`].
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Form<N> {
    notifier: N,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tested: Option<String>,
}

/// Why it cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum LedgerError {
    /// There is a ConfigMap of that name that the cluster does not control.
    #[error(
        "ConfigMap {0} exists and is not controlled by this PgPoolCluster; delete or rename it"
    )]
    NameConflict(String),
    /// It is not there as it was read or written last.
    #[error("ConfigMap {0} was written or deleted by somebody else")]
    Overtaken(String),
    #[error(transparent)]
    Call(#[from] CallError),
}

/// The ConfigMap of a cluster.
pub(super) struct Ledger {
    client: Client,
    fence: Fence,
    namespace: String,
    cluster: String,
    /// Of the cluster.
    uid: String,
    owner: Owner,
    /// As it is there; none if it is not.
    present: Option<Present>,
    /// What was to be written when no answer came, the last few: one may be there.
    unanswered: VecDeque<BTreeMap<String, String>>,
    /// Since when cursors, and nothing else, are newer than what is there.
    lags_since: Option<Instant>,
}

struct Present {
    version: Option<String>,
    data: BTreeMap<String, String>,
}

impl Ledger {
    /// That of the cluster of this name and uid; nothing is known of it yet.
    pub(super) fn new(
        client: Client,
        fence: Fence,
        (namespace, cluster): (String, String),
        uid: String,
        owner: Owner,
    ) -> Self {
        Self {
            client,
            fence,
            namespace,
            cluster,
            uid,
            owner,
            present: None,
            unanswered: VecDeque::new(),
            lags_since: None,
        }
    }

    /// Reads what was told, by somebody else; `None` if there is none but what we
    /// wrote ourselves. What is damaged is logged, and begins anew.
    ///
    /// # Errors
    /// If it cannot be read, or is not the cluster's.
    pub(super) async fn read(&mut self) -> Result<Option<Told>, LedgerError> {
        let name = notifier_name(&self.cluster);
        let what = format!("get ConfigMap {name}");
        let found = client::read(&what, self.api().get_opt(&name)).await?;
        let mut ours = std::mem::take(&mut self.unanswered);
        // Somebody may have written only beside it.
        ours.extend(self.present.take().map(|present| present.data));
        let Some(found) = found else {
            return Ok(None);
        };
        if !Found::of(&found.metadata).belongs_to(&self.uid) {
            return Err(LedgerError::NameConflict(name));
        }
        let data = found.data.unwrap_or_default();
        let is_ours = ours.contains(&data);
        let form: Form<Notifier> = parsed(&name, &data, TOLD);
        let cursors = parsed(&name, &data, CURSORS);
        self.present = Some(Present {
            version: found.metadata.resource_version,
            data,
        });
        Ok((!is_ours).then_some(Told {
            notifier: form.notifier,
            tested: form.tested,
            cursors,
        }))
    }

    /// Writes what was told, if that is news.
    ///
    /// # Errors
    /// If it cannot be written; [`LedgerError::Overtaken`] asks for a
    /// [`Self::read`].
    pub(super) async fn write(&mut self, told: &Told) -> Result<(), LedgerError> {
        let data = data(told);
        if !self.is_due(told, &data) {
            return Ok(());
        }
        let name = notifier_name(&self.cluster);
        let config_map = notifier_config_map(&self.cluster, &self.owner, data.clone());
        let written = match &self.present {
            None => self.create(&name, &config_map).await,
            Some(present) => self.replace(&name, present, &config_map).await,
        };
        match written {
            Ok(written) => {
                self.unanswered.clear();
                self.lags_since = None;
                self.present = Some(Present {
                    version: written.metadata.resource_version,
                    data,
                });
                Ok(())
            }
            Err(error) => match error.kind() {
                Kind::Conflict | Kind::Gone => Err(LedgerError::Overtaken(name)),
                _ => {
                    self.unanswered.push_back(data);
                    if self.unanswered.len() > UNANSWERED_MAX {
                        self.unanswered.pop_front();
                    }
                    Err(error.into())
                }
            },
        }
    }

    /// Whether something is to be written later though nothing changes.
    pub(super) const fn lags(&self) -> bool {
        self.lags_since.is_some()
    }

    fn is_due(&mut self, told: &Told, data: &BTreeMap<String, String>) -> bool {
        let same_told = match &self.present {
            Some(present) if present.data == *data => {
                self.lags_since = None;
                return false;
            }
            Some(present) => present.data.get(TOLD) == data.get(TOLD),
            None => told.notifier.is_blank() && told.tested.is_none(),
        };
        if !same_told {
            return true;
        }
        if self.present.is_none() && told.cursors.is_empty() {
            return false;
        }
        let since = self.lags_since.get_or_insert_with(Instant::now);
        since.elapsed() >= CURSORS_LAG_MAX
    }

    async fn create(&self, name: &str, config_map: &ConfigMap) -> CallResult<ConfigMap> {
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let api = self.api();
        let call = api.create(&params, config_map);
        client::write(&self.fence, &format!("create ConfigMap {name}"), call).await
    }

    /// A merge patch fails at another version, as an update would, and needs no
    /// right besides those that the other children need.
    async fn replace(
        &self,
        name: &str,
        present: &Present,
        config_map: &ConfigMap,
    ) -> CallResult<ConfigMap> {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({
            "metadata": {
                "resourceVersion": present.version,
                "labels": config_map.metadata.labels,
            },
            "data": config_map.data,
        }));
        let api = self.api();
        let call = api.patch(name, &params, &patch);
        client::write(&self.fence, &format!("write ConfigMap {name}"), call).await
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

fn data(told: &Told) -> BTreeMap<String, String> {
    let form = Form {
        notifier: &told.notifier,
        tested: told.tested.clone(),
    };
    let known = "it has no maps but of text";
    let form = serde_json::to_string(&form).expect(known);
    let cursors = serde_json::to_string(&told.cursors).expect(known);
    [(TOLD, form), (CURSORS, cursors)]
        .map(|(key, text)| (key.to_owned(), text))
        .into()
}

/// What a key holds. Whoever empties it wants it to begin anew.
fn parsed<T: DeserializeOwned + Default>(
    name: &str,
    data: &BTreeMap<String, String>,
    key: &str,
) -> T {
    let text = data.get(key).filter(|text| !text.is_empty());
    let Some(text) = text else {
        return T::default();
    };
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::warn!(
            config_map = name,
            key,
            %error,
            "what was told is damaged and begins anew: what is wrong now is told again"
        );
        T::default()
    })
}
