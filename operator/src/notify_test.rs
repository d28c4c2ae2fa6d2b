//! `operator notify-test`: a test message to each channel of a manifest.

use std::fmt;

use futures::future::join_all;
use jiff::Timestamp;

use crate::{
    controller::validate::ValidatedCluster,
    courier::Courier,
    destination::Destination,
    notify::{Context, Message, Outcome},
};

/// What came of a test message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    /// Name of the channel.
    pub channel: String,
    /// What kind of channel it is.
    pub kind: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

impl Tested {
    /// Whether it arrived.
    #[must_use]
    pub const fn arrived(&self) -> bool {
        matches!(self.outcome, Outcome::Delivered { .. })
    }
}

impl fmt::Display for Tested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): ", self.channel, self.kind)?;
        match &self.outcome {
            Outcome::Delivered { .. } => f.write_str("delivered"),
            Outcome::Failed(reason) => write!(f, "failed: {reason}; it may help to try again"),
            Outcome::Unclear(reason) => write!(f, "unclear: {reason}; look whether it arrived"),
            Outcome::Throttled(wait) => {
                write!(
                    f,
                    "too many messages: asked to wait for {} s",
                    wait.as_secs()
                )
            }
            Outcome::Refused(reason) => write!(f, "refused: {reason}"),
            Outcome::RootGone => f.write_str("refused: it was taken for an answer"),
        }
    }
}

/// Sends a test message to each channel of a cluster, once, at the same time.
///
/// # Errors
/// If HTTP clients cannot be set up on this host.
pub async fn run(cluster: &ValidatedCluster) -> Result<Vec<Tested>, reqwest::Error> {
    let courier = Courier::new()?;
    let context = Context {
        cluster: cluster.name.clone(),
        links: Vec::new(),
    };
    let channels = cluster.channels.iter();
    let destinations = channels.map(|one| (&one.config.name, &one.destination));
    Ok(send(&courier, &context, destinations).await)
}

/// Sends a test message to each destination, once, at the same time.
pub(crate) async fn send<'a>(
    courier: &Courier,
    context: &Context,
    destinations: impl IntoIterator<Item = (&'a String, &'a Destination)>,
) -> Vec<Tested> {
    let tests = destinations
        .into_iter()
        .map(async |(channel, destination)| {
            let now = Timestamp::now();
            let message = Message::test(context, channel, now);
            let outcome = courier.test(destination, &message, context, now).await;
            Tested {
                channel: channel.clone(),
                kind: destination.word(),
                outcome,
            }
        });
    join_all(tests).await
}
