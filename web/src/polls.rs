//! Long polls, apart from other requests: who waits holds a connection and a
//! request for up to a minute, and is not to crowd out who does not.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Long polls at once; a tier has an operator or two.
pub const POLLS_MAX: usize = 32;

/// The long polls in progress, at most [`POLLS_MAX`].
#[derive(Debug)]
pub struct Polls(Semaphore);

/// As many as may be are in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{POLLS_MAX} long polls are in progress; ask again later, or without waiting")]
pub struct PollsExceeded;

impl Default for Polls {
    fn default() -> Self {
        Self(Semaphore::new(POLLS_MAX))
    }
}

impl Polls {
    /// Begins one, which lasts until what is returned is dropped.
    ///
    /// # Errors
    /// There are too many; it is the answer, too.
    pub fn begin(&self) -> Result<SemaphorePermit<'_>, PollsExceeded> {
        self.0.try_acquire().map_err(|_| PollsExceeded)
    }
}

impl IntoResponse for PollsExceeded {
    fn into_response(self) -> Response {
        let later = [(header::RETRY_AFTER, "1")];
        (StatusCode::SERVICE_UNAVAILABLE, later, format!("{self}\n")).into_response()
    }
}
