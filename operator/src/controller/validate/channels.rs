//! Who is told, and where.

use super::{Channel, Validator};
use crate::{
    api,
    controller::Fault,
    destination::{Destination, SLACK_API, Token},
    notify::ChannelConfig,
    webhook::{PLACEHOLDER, WebhookPolicy},
};

impl Validator<'_> {
    pub(super) fn channels(
        &mut self,
        notifications: &[api::Notification],
        policy: &WebhookPolicy,
    ) -> Vec<Channel> {
        let mut channels = Vec::with_capacity(notifications.len());
        for (index, notification) in notifications.iter().enumerate() {
            let path = format!("spec.notifications[{index}]");
            if let Some(destination) = self.destination(&path, notification, policy) {
                channels.push(Channel {
                    config: config(notification, &destination),
                    destination,
                });
            }
        }
        channels
    }

    fn destination(
        &mut self,
        path: &str,
        notification: &api::Notification,
        policy: &WebhookPolicy,
    ) -> Option<Destination> {
        if let Some(slack) = &notification.slack {
            return self.slack(&format!("{path}.slack"), slack, policy);
        }
        if let Some(webhook) = &notification.webhook {
            let path = format!("{path}.webhook");
            let url = self.secret_url(
                &format!("{path}.urlSecretRef"),
                &webhook.url_secret_ref,
                policy,
            );
            let key = webhook.signing_key_secret_ref.as_ref();
            let key = match key {
                Some(key) => Some(self.token(&format!("{path}.signingKeySecretRef"), key)?),
                None => None,
            };
            return url?.map_or(Some(Destination::Placeholder), |url| {
                Some(Destination::Webhook { url, key })
            });
        }
        // The schema sees to it that one of the three is there.
        let alertmanager = notification.alertmanager.as_ref()?;
        let path = format!("{path}.alertmanager");
        let base = format!("{}/", alertmanager.url.trim_end_matches('/'));
        let url = self.plain_url(&format!("{path}.url"), &base, policy);
        let token = match &alertmanager.token_secret_ref {
            Some(secret) => Some(self.token(&format!("{path}.tokenSecretRef"), secret)?),
            None => None,
        };
        let url = url?.join("api/v2/alerts").ok()?;
        Some(Destination::Alertmanager { url, token })
    }

    fn slack(
        &mut self,
        path: &str,
        slack: &api::Slack,
        policy: &WebhookPolicy,
    ) -> Option<Destination> {
        if let Some(secret) = &slack.webhook_url_secret_ref {
            let url = self.secret_url(&format!("{path}.webhookUrlSecretRef"), secret, policy)?;
            return Some(url.map_or(Destination::Placeholder, Destination::SlackWebhook));
        }
        let secret = slack.bot_token_secret_ref.as_ref()?;
        let token = self.token(&format!("{path}.botTokenSecretRef"), secret);
        let base = slack.api_url.as_deref().unwrap_or(SLACK_API);
        let base = format!("{}/", base.trim_end_matches('/'));
        let api = self.plain_url(&format!("{path}.apiUrl"), &base, policy);
        Some(Destination::SlackBot {
            api: api?,
            token: token?,
            channel: slack.channel.clone()?,
        })
    }

    /// A URL that is a secret; none where it is an example's placeholder.
    fn secret_url(
        &mut self,
        path: &str,
        secret: &api::SecretKeyRef,
        policy: &WebhookPolicy,
    ) -> Option<Option<reqwest::Url>> {
        let value = self.secret(path, &secret.name, &secret.key)?;
        let text = value.text().unwrap_or_default();
        if text.trim() == PLACEHOLDER {
            return Some(None);
        }
        match policy.url(text) {
            Ok(url) => Some(Some(url)),
            Err(message) => {
                let message = format!("the webhook's URL {message}");
                let fault = Fault::secret(&secret.name, &secret.key, 1, message);
                self.faults.push(fault);
                None
            }
        }
    }

    fn plain_url(
        &mut self,
        path: &str,
        text: &str,
        policy: &WebhookPolicy,
    ) -> Option<reqwest::Url> {
        let url = policy.url(text);
        url.map_err(|message| self.fault(path, message)).ok()
    }

    fn token(&mut self, path: &str, secret: &api::SecretKeyRef) -> Option<Token> {
        let value = self.secret(path, &secret.name, &secret.key)?;
        match Token::parse(value.text().unwrap_or_default()) {
            Ok(token) => Some(token),
            Err(message) => {
                let fault = Fault::secret(&secret.name, &secret.key, 1, message);
                self.faults.push(fault);
                None
            }
        }
    }
}

fn config(notification: &api::Notification, destination: &Destination) -> ChannelConfig {
    ChannelConfig {
        name: notification.name.clone(),
        fingerprint: String::new(),
        configured: *destination != Destination::Placeholder,
        style: destination.style(),
        send_resolved: notification.send_resolved,
        events: notification.events.clone(),
        minimum_severity: notification.minimum_severity,
        group_wait: notification.group_wait.0,
        group_interval: notification.group_interval.0,
        repeat_interval: notification.repeat_interval.0,
        links: notification
            .links
            .iter()
            .map(|link| (link.name.clone(), link.url.clone()))
            .collect(),
    }
}
