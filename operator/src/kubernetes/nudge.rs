//! Has kubelets look at once.
//!
//! A kubelet brings a changed Secret to its Pods when it next looks at them,
//! which can take a minute; a change of a Pod's annotation has it look now.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    apply::FIELD_MANAGER,
    client,
    error::{CallResult, Kind},
    fence::Fence,
    pods::{Phase, PodView},
};

/// Annotation of a Pod: the configuration that it should come to have.
pub(super) const WANTED: &str = "poolkeeper.dev/config-revision";

/// Which revision each Pod was told of, by uid.
#[derive(Debug, Default)]
pub(super) struct Nudged(HashMap<String, String>);

impl Nudged {
    /// Tells every Pod that is ready and was not told of `revision` yet. Pods
    /// that a rollout makes begin with the newest.
    ///
    /// # Errors
    /// The first that could not be told; it is tried again.
    pub(super) async fn nudge(
        &mut self,
        client: &Client,
        fence: &Fence,
        namespace: &str,
        pods: &[PodView],
        revision: &str,
    ) -> CallResult<()> {
        self.0
            .retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        for pod in pods {
            // A former process of ours may have told it.
            let told_before = self.0.get(&pod.uid).or(pod.told.as_ref());
            if told_before.is_some_and(|told| told == revision) {
                continue;
            }
            // One that was never told and is starting reads the newest anyway.
            let first = !self.0.contains_key(&pod.uid);
            if !(first && pod.phase != Phase::Ready) {
                let patch = json!({"metadata": {
                    "uid": pod.uid,
                    "annotations": {WANTED: revision},
                }});
                let params = PatchParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                let what = format!("annotate Pod {}", pod.name);
                let patch = Patch::Merge(&patch);
                let call = api.patch_metadata(&pod.name, &params, &patch);
                match client::write(fence, &what, call).await {
                    Ok(_) => {}
                    Err(error) if matches!(error.kind(), Kind::Gone | Kind::Conflict) => {}
                    Err(error) => return Err(error),
                }
            }
            self.0.insert(pod.uid.clone(), revision.to_owned());
        }
        Ok(())
    }

    /// Notes that a Pod has it, so that it need not be told.
    pub(super) fn has(&mut self, uid: &str, revision: &str) {
        self.0.insert(uid.to_owned(), revision.to_owned());
    }
}
