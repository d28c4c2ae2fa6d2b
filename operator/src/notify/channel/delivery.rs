//! What becomes of a message, and what follows.

use std::time::Duration;

use jiff::Timestamp;

use super::{Channel, Claim};
use crate::{
    api::Severity,
    notify::{Form, Outcome, Post, Root, Style, alert::tidy},
};

/// Slack takes about one message a second for each channel.
const SPACING: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The same where a message may have arrived each time that it was tried.
const UNCLEAR_MAX: Duration = Duration::from_secs(120);
/// Longest time for which a `Retry-After` is believed.
const THROTTLE_MAX: Duration = Duration::from_secs(3600);
/// How much of the reason of a failure is kept, in bytes.
const PROBLEM_BYTES_MAX: usize = 120;

impl Channel {
    pub(in crate::notify) fn finished(
        &mut self,
        post: &Post,
        outcome: Outcome,
        now: Timestamp,
        jitter: f64,
    ) {
        self.in_flight = false;
        let Some(claim) = self.claim.take() else {
            return;
        };
        // Whether an earlier attempt arrived stays unknown however this one ends.
        let take_back = |claim: Claim| claim.unclear.then_some(claim);
        match outcome {
            Outcome::Delivered { reference } => self.confirm(&claim, post, reference, now),
            Outcome::Failed(reason) => {
                self.claim = take_back(claim);
                self.back_off(&reason, now, jitter);
            }
            Outcome::Unclear(reason) => {
                let repeatable = claim.form != Form::Edit;
                self.claim = repeatable.then_some(Claim {
                    unclear: true,
                    ..claim
                });
                // Each time it may have arrived once more.
                let wait = BACKOFF_MIN.saturating_mul(1 << (2 * self.failures).min(16));
                self.wait(wait.min(UNCLEAR_MAX), &reason, now, jitter);
            }
            Outcome::Throttled(wait) => {
                self.claim = take_back(claim);
                let wait = wait.clamp(SPACING, THROTTLE_MAX);
                self.fails(&format!("asked to wait for {} s", wait.as_secs()), now);
                self.pause = Some((now, wait));
            }
            Outcome::Refused(reason) => {
                self.claim = take_back(claim);
                self.fails(&reason, now);
                self.refused = self.failure.clone();
            }
            Outcome::RootGone => {
                self.claim = take_back(claim);
                if self.root.take().is_none() {
                    let reason = "says that a message is gone that never was";
                    self.back_off(reason, now, jitter);
                }
            }
        }
    }

    fn confirm(&mut self, claim: &Claim, post: &Post, reference: Option<String>, now: Timestamp) {
        self.failures = 0;
        self.failure = None;
        self.refused = None;
        self.failing_since = None;
        self.last_delivery = Some(now);
        self.pause = Some((now, SPACING));
        self.cursor = self.cursor.max(claim.upto);
        if claim.form == Form::Edit {
            if let Some(root) = &mut self.root {
                root.shown = claim.upto;
                root.shown_well = post.open.is_empty();
            }
            return;
        }
        self.told_at = Some(now);
        self.waiting = None;
        self.urgent = None;
        self.state_due &= claim.form != Form::Present;
        if self.config.style == Style::Threads {
            self.remember_root(claim, post, reference);
        }
    }

    fn remember_root(&mut self, claim: &Claim, post: &Post, reference: Option<String>) {
        let worst = post.items.iter().map(|item| item.event().severity()).max();
        match (&mut self.root, reference) {
            (Some(root), _) => {
                root.worst = root.worst.max(worst.unwrap_or(Severity::Info));
                root.until = post.items.iter().map(|item| item.at).max();
            }
            // News that are over as they are told begin no thread.
            (None, Some(message)) if !post.open.is_empty() => {
                self.root = Some(Root::new(message, claim.upto, worst, post));
            }
            (None, _) => {}
        }
    }

    fn fails(&mut self, reason: &str, now: Timestamp) {
        self.failing_since.get_or_insert(now);
        self.failure = Some(tidy(reason, PROBLEM_BYTES_MAX));
    }

    fn back_off(&mut self, reason: &str, now: Timestamp, jitter: f64) {
        let wait = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16));
        self.wait(wait.min(BACKOFF_MAX), reason, now, jitter);
    }

    fn wait(&mut self, wait: Duration, reason: &str, now: Timestamp, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.fails(reason, now);
        let wait = wait.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0);
        self.pause = Some((now, wait));
    }
}
