//! Logs of both proxies: events with fields, as text or JSON.
//!
//! Whoever logs only queues a line; a thread of its own writes them. An event
//! loop must not stand still because the reader of stderr does. The queue is
//! bounded: lines that find it full are counted, and the count is logged.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tracing_subscriber::{
    EnvFilter, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt,
};

const QUEUE_LINES_MAX: usize = 4096;
/// At the end, how long the log's reader may take for what is queued.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Time, level, event, fields as `name=value`.
    #[default]
    Text,
    /// One JSON object a line: `timestamp`, `level`, `message` (the event), fields.
    Json,
}

/// What is logged where.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Nothing goes to stderr; a log file is written all the same.
    pub quiet: bool,
    /// 0 logs information, warnings and errors, 1 also debugging, 2 everything.
    pub verbosity: u8,
    /// How lines look.
    pub format: Format,
    /// Appended to, besides stderr.
    pub logfile: Option<PathBuf>,
}

/// The log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot append to log file {}: {source}", path.display())]
pub struct LogFileError {
    path: PathBuf,
    source: io::Error,
}

/// Keeps the log running; dropped last in `main`, it writes what is queued.
#[derive(Debug)]
pub struct Telemetry {
    queue: Queue,
    logfile: Option<PathBuf>,
    writer: Option<JoinHandle<()>>,
}

/// Starts logging, once per process.
///
/// # Errors
/// The log file cannot be opened.
pub fn init(options: &Options) -> Result<Telemetry, LogFileError> {
    let logfile = options.logfile.as_deref().map(open).transpose()?;
    let colours = !options.quiet && logfile.is_none() && io::stderr().is_terminal();
    let (sender, receiver) = sync_channel(QUEUE_LINES_MAX);
    let queue = Queue {
        sender,
        lost: Arc::default(),
    };
    let sinks = Sinks {
        stderr: !options.quiet,
        logfile,
    };
    let lost = Arc::clone(&queue.lost);
    let format = options.format;
    let writer = std::thread::Builder::new()
        .name("log".into())
        .spawn(move || write(&receiver, sinks, &lost, format))
        .expect("a process that starts can make a thread");
    // The resolver tells each step of each look-up; what comes of it, we tell.
    let level = match options.verbosity {
        0 => "info,hickory_net=error,hickory_resolver=error",
        1 => "debug,hickory_net=error,hickory_resolver=error",
        _ => "trace",
    };
    let subscriber = tracing_subscriber::registry().with(EnvFilter::new(level));
    let layer = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(colours)
        .with_writer(queue.clone());
    // Only a test sets a subscriber twice, and then the first one is right.
    let _ = match format {
        Format::Text => subscriber.with(layer).try_init(),
        Format::Json => subscriber.with(layer.json().flatten_event(true)).try_init(),
    };
    Ok(Telemetry {
        queue,
        logfile: options.logfile.clone(),
        writer: Some(writer),
    })
}

impl Telemetry {
    /// Opens the log file anew, for log rotation. Where it cannot be opened the
    /// old one stays in use.
    ///
    /// # Errors
    /// The log file cannot be opened.
    pub fn reopen(&self) -> Result<(), LogFileError> {
        if let Some(path) = &self.logfile {
            let file = open(path)?;
            // The writer ends only with this value.
            let _ = self.queue.sender.send(Order::Reopened(file));
        }
        Ok(())
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // The subscriber keeps a sender for ever, so the end is said, not seen.
        // Nobody may keep the process from ending by not reading its log.
        let Some(writer) = self.writer.take() else {
            return;
        };
        let deadline = Instant::now() + FLUSH_TIME_MAX;
        let mut said = false;
        while !writer.is_finished() && Instant::now() < deadline {
            said = said || self.queue.sender.try_send(Order::End).is_ok();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn open(path: &Path) -> Result<File, LogFileError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|source| LogFileError {
            path: path.to_owned(),
            source,
        })
}

enum Order {
    Line(Box<[u8]>),
    Reopened(File),
    End,
}

#[derive(Clone, Debug)]
struct Queue {
    sender: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for Queue {
    /// Takes one whole line, as tracing-subscriber writes them.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(Order::Line(line.into())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Sinks {
    stderr: bool,
    logfile: Option<File>,
}

impl Sinks {
    /// A log that cannot be written has nowhere to say so.
    fn write(&mut self, line: &[u8]) {
        if self.stderr {
            let _ = io::stderr().write_all(line);
        }
        if let Some(file) = &mut self.logfile {
            let _ = file.write_all(line);
        }
    }
}

fn write(orders: &Receiver<Order>, mut sinks: Sinks, lost: &AtomicU64, format: Format) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Line(line) => sinks.write(&line),
            Order::Reopened(file) => sinks.logfile = Some(file),
            Order::End => return,
        }
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            let line = match format {
                Format::Text => {
                    format!("log lines lost, the log is read too slowly lines={count}\n")
                }
                Format::Json => format!(
                    "{{\"level\":\"WARN\",\"message\":\"log lines lost, the log is read too slowly\",\"lines\":{count}}}\n"
                ),
            };
            sinks.write(line.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_loses_lines_and_never_waits() {
        let (sender, receiver) = sync_channel(2);
        let mut queue = Queue {
            sender,
            lost: Arc::default(),
        };
        for _ in 0..5 {
            queue.write_all(b"line\n").unwrap();
        }
        assert_eq!(queue.lost.load(Ordering::Relaxed), 3);

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let sinks = Sinks {
            stderr: false,
            logfile: Some(open(&path).unwrap()),
        };
        let lost = Arc::clone(&queue.lost);
        drop(queue);
        write(&receiver, sinks, &lost, Format::Text);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("line\n").count(), 2, "{text}");
        assert!(text.contains("lines=3\n"), "{text}");
    }

    #[test]
    fn reopening_writes_to_the_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (sender, receiver) = sync_channel(8);
        let send = |order| sender.send(order).unwrap();
        let sinks = Sinks {
            stderr: false,
            logfile: Some(open(&path).unwrap()),
        };
        send(Order::Line(b"one\n".as_slice().into()));
        std::fs::rename(&path, directory.path().join("log.1")).unwrap();
        send(Order::Reopened(open(&path).unwrap()));
        send(Order::Line(b"two\n".as_slice().into()));
        send(Order::End);
        write(&receiver, sinks, &AtomicU64::new(0), Format::Json);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        let old = std::fs::read_to_string(directory.path().join("log.1")).unwrap();
        assert_eq!(old, "one\n");
    }

    #[test]
    fn an_unwritable_log_file_is_named() {
        let options = Options {
            logfile: Some("/nonexistent/directory/log".into()),
            ..Options::default()
        };
        let error = init(&options).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/directory/log"));
    }
}
