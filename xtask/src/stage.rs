//! Stages: what is being done, how long it took, how it ended.

use std::{
    ops::AddAssign,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// What a stage found: how many checks held and how many did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// A stage that is one check.
    pub(crate) const ONE: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

struct Done {
    name: String,
    tally: Tally,
    took: Duration,
}

impl Done {
    /// Runs a stage; an error is one failed check, told at once.
    fn of(name: &str, stage: impl FnOnce() -> Result<Tally>) -> Self {
        let started = Instant::now();
        let tally = stage().unwrap_or_else(|error| {
            println!("  {name}: error: {error:#}");
            Tally {
                failed: 1,
                ..Tally::default()
            }
        });
        let took = started.elapsed();
        println!("--- {name}: {} in {}", verdict(tally), seconds(took));
        Self {
            name: name.to_owned(),
            tally,
            took,
        }
    }
}

fn verdict(tally: Tally) -> &'static str {
    match tally.failed {
        0 => "ok",
        _ => "FAILED",
    }
}

/// Runs stages one after the other and keeps account.
pub(crate) struct Stages {
    started: Instant,
    done: Vec<Done>,
}

type Job = Box<dyn FnOnce() + Send>;

/// Stages that go on beside those of [`Stages`], one after the other.
pub(crate) struct Beside {
    jobs: mpsc::Sender<Job>,
}

/// A stage of [`Beside`] that somebody is to wait for.
pub(crate) struct Pending {
    name: &'static str,
    done: mpsc::Receiver<Done>,
}

impl Beside {
    /// With their share of the processors: tests that wait, most of the time.
    pub(crate) fn as_equals() -> Self {
        Self::after(|| {})
    }

    /// With what others leave of the processors: builds, while tests wait.
    pub(crate) fn with_what_is_left() -> Self {
        Self::after(|| {
            // Of this thread alone, on Linux, and of the processes that it starts.
            if let Err(error) = rustix::process::setpriority_process(None, 19) {
                println!("  cannot do with less of the processors: {error}");
            }
        })
    }

    fn after(first: impl FnOnce() + Send + 'static) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::spawn(move || {
            first();
            for job in queue {
                job();
            }
        });
        Self { jobs }
    }

    /// Begins a stage once those before it have ended.
    pub(crate) fn begin(
        &self,
        name: &'static str,
        stage: impl FnOnce() -> Result<Tally> + Send + 'static,
    ) -> Pending {
        let (sender, done) = mpsc::channel();
        let job = Box::new(move || {
            println!("\n=== {name}, beside the rest");
            // Nobody waits for it any more when the whole run ends with an error.
            let _ = sender.send(Done::of(name, stage));
        });
        // If one before it panicked, the wait says that there is no result.
        let _ = self.jobs.send(job);
        Pending { name, done }
    }
}

impl Stages {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            done: Vec::new(),
        }
    }

    /// Runs one stage, and returns whether everything in it held.
    pub(crate) fn run(&mut self, name: &str, stage: impl FnOnce() -> Result<Tally>) -> bool {
        println!("\n=== {name}");
        self.keep(Done::of(name, stage))
    }

    /// Waits for a stage that goes on beside; otherwise as [`Self::run`].
    pub(crate) fn wait(&mut self, pending: Pending) -> bool {
        let Pending { name, done } = pending;
        let done = done
            .recv()
            .unwrap_or_else(|_| Done::of(name, || bail!("it ended without a result")));
        self.keep(done)
    }

    fn keep(&mut self, done: Done) -> bool {
        let held = done.tally.failed == 0;
        self.done.push(done);
        held
    }

    /// Prints the account; its last line is the one that CI reads.
    pub(crate) fn finish(self) -> Tally {
        println!();
        let mut sum = Tally::default();
        for Done { name, tally, took } in &self.done {
            let verdict = verdict(*tally);
            println!(
                "{verdict:<7}{:>7}  {name} ({} passed, {} failed)",
                seconds(*took),
                tally.passed,
                tally.failed
            );
            sum += *tally;
        }
        println!("{:>14}  in all\n", seconds(self.started.elapsed()));
        match sum.skipped {
            0 => println!("{} passed, {} failed", sum.passed, sum.failed),
            skipped => println!(
                "{} passed, {} failed, {skipped} skipped",
                sum.passed, sum.failed
            ),
        }
        sum
    }
}

/// `12.3 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn stages_beside_follow_each_other_and_take_what_is_left_of_the_processors() {
        static FIRST_ENDED: AtomicBool = AtomicBool::new(false);
        let before = rustix::process::getpriority_process(None).unwrap();
        let mut stages = Stages::new();
        let beside = Beside::with_what_is_left();
        let first = beside.begin("first", || {
            thread::yield_now();
            FIRST_ENDED.store(true, Ordering::SeqCst);
            bail!("it fails")
        });
        let second = beside.begin("second", || {
            assert!(FIRST_ENDED.load(Ordering::SeqCst));
            assert_eq!(rustix::process::getpriority_process(None)?, 19);
            Ok(Tally::ONE)
        });
        assert!(stages.wait(second));
        assert!(!stages.wait(first));
        // Whoever runs the tests may have chosen the same for them.
        let after = rustix::process::getpriority_process(None).unwrap();
        assert_eq!(after, before);
        assert_eq!(
            stages.finish(),
            Tally {
                passed: 1,
                failed: 1,
                skipped: 0
            }
        );
    }

    #[test]
    fn a_stage_beside_that_dies_is_a_failure() {
        let mut stages = Stages::new();
        let pending = Beside::as_equals().begin("dies", || panic!("for a test"));
        assert!(!stages.wait(pending));
    }
}
