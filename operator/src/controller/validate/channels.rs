//! Who is told, and where.

use super::{Channel, Validator};
use crate::{
    api,
    controller::{Fault, Place},
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
                self.fault(
                    format!("{path}.botTokenSecretRef"),
                    "not supported yet; use webhookUrlSecretRef",
                );
                continue;
            };
            let path = format!("{path}.webhookUrlSecretRef");
            let faults_before = self.faults.len();
            let value = self.secret(&path, &secret.name, &secret.key);
            if self.faults.len() > faults_before {
                continue;
            }
            match Webhook::parse(value.text().unwrap_or_default(), policy) {
                Ok(webhook) => channels.push(Channel {
                    name: notification.name.clone(),
                    webhook,
                    send_resolved: notification.send_resolved,
                }),
                Err(message) => self.faults.push(Fault {
                    place: Place::Secret {
                        name: secret.name.clone(),
                        key: secret.key.clone(),
                        line: 1,
                    },
                    message: format!("the webhook's URL {message}"),
                }),
            }
        }
        channels
    }
}
