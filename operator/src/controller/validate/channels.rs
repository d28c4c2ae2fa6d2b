//! Who is told, and where.

use super::{Channel, Validator};
use crate::{
    api,
    controller::{Fault, FaultKind},
    webhook::{Webhook, WebhookPolicy},
};

impl Validator<'_> {
    pub(super) fn channels(
        &mut self,
        notifications: &[api::Notification],
        policy: &WebhookPolicy,
    ) -> Vec<Channel> {
        let mut channels = Vec::with_capacity(notifications.len());
        for (index, notification) in notifications.iter().enumerate() {
            let path = format!("spec.notifications[{index}].slack");
            let Some(secret) = &notification.slack.webhook_url_secret_ref else {
                let message = "is not supported yet; use webhookUrlSecretRef";
                let fault = Fault::field(format!("{path}.botTokenSecretRef"), message);
                self.faults.push(fault.of_kind(FaultKind::NotSupportedYet));
                continue;
            };
            let path = format!("{path}.webhookUrlSecretRef");
            let Some(value) = self.secret(&path, &secret.name, &secret.key) else {
                continue;
            };
            match Webhook::parse(value.text().unwrap_or_default(), policy) {
                Ok(webhook) => channels.push(Channel {
                    name: notification.name.clone(),
                    webhook,
                    send_resolved: notification.send_resolved,
                }),
                Err(message) => {
                    let message = format!("the webhook's URL {message}");
                    let fault = Fault::secret(&secret.name, &secret.key, 1, message);
                    self.faults.push(fault);
                }
            }
        }
        channels
    }
}
