//! Signals, PgBouncer's: TERM drains, INT ends sessions at their boundaries,
//! QUIT ends at once, HUP reloads, USR1 pauses, USR2 resumes.

use std::{io, sync::Arc};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::control::{Control, Ending, Released};

/// The signals that are watched.
#[derive(Debug)]
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    quit: Signal,
    hup: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    /// From now on they do not end the process by themselves. Needs a runtime.
    pub(super) fn watch() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Does what they ask for, for as long as the process runs.
    pub(super) async fn obey(mut self, control: Arc<Control>) {
        let mut ending = false;
        let mut end = |how| {
            // A second one means: no more patience.
            let how = if ending { Ending::Now } else { how };
            ending = true;
            let control = control.clone();
            tokio::spawn(async move { control.end(how).await });
        };
        loop {
            tokio::select! {
                _ = self.term.recv() => end(Ending::Drain),
                _ = self.int.recv() => end(Ending::Soon),
                _ = self.quit.recv() => end(Ending::Now),
                // It has told the log.
                _ = self.hup.recv() => drop(control.reload_and_log()),
                _ = self.usr1.recv() => pause(&control),
                _ = self.usr2.recv() => match control.resume(None) {
                    Ok(()) => tracing::info!("resumed"),
                    Err(error) => tracing::warn!(%error, "not resumed"),
                },
            }
        }
    }
}

fn pause(control: &Arc<Control>) {
    if let Err(error) = control.begin_pause(None) {
        return tracing::warn!(%error, "not paused");
    }
    tracing::info!("pausing");
    let control = control.clone();
    tokio::spawn(async move {
        if control.released(None).await == Released::All {
            tracing::info!("paused");
        }
    });
}
