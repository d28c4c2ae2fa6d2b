//! One direction of a session: bytes from one socket to the other.
//!
//! Sockets are watched edge-triggered and registered once. In the common case a
//! message costs one recv and one send: what is read goes into the loop's
//! scratch buffer and is written from there at once. An idle direction holds no
//! buffer; one whose receiver is slow holds what could not be written, at most
//! one scratch buffer, and reads no more until that is gone.

use std::io::{self, ErrorKind, Read, Write};

/// Full scratch buffers moved in one go until others get their turn.
const ROUNDS_MAX: usize = 4;

/// State of one direction.
#[derive(Debug, Default)]
pub struct Flow {
    unsent: Option<Box<Unsent>>,
    /// Something may be there to read: an edge came that no read has exhausted.
    readable: bool,
    /// The sender's end or an error is in sight: read until it comes, for no
    /// further edge announces it.
    ending: bool,
    stage: Stage,
}

#[derive(Debug)]
struct Unsent {
    bytes: Vec<u8>,
    written: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The sender's FIN is read, ours is due once everything is written.
    Ended,
    /// FIN is forwarded, or nobody is left to take it.
    Done,
}

/// What is left to do after [`Flow::pump`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// Nothing until the next edge.
    Waiting,
    /// More is there: no edge will come, pump again after others had their turn.
    Again,
    /// This direction is over.
    Done,
}

/// A socket failed.
#[derive(Debug)]
pub struct Broken {
    /// Which one.
    pub at: End,
    /// Bytes were written to the other end just now: a reset might overtake
    /// them, a plain close does not.
    pub delivered: bool,
    /// What the kernel said.
    pub error: io::Error,
}

/// The ends of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where bytes come from.
    From,
    /// Where they go.
    To,
}

/// A writer that can say that nothing more follows.
pub trait HalfClose: Write {
    /// Sends FIN.
    fn finish(&mut self);
}

impl HalfClose for &mio::net::TcpStream {
    fn finish(&mut self) {
        // It fails if the connection is gone already, which says the same.
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}

impl Flow {
    /// An edge came from the sender's socket.
    #[inline]
    pub fn note_readable(&mut self, ending: bool) {
        self.readable = true;
        self.ending |= ending;
    }

    /// Bytes read and not yet written.
    #[inline]
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.unsent
            .as_ref()
            .map_or(0, |unsent| unsent.bytes.len() - unsent.written)
    }

    /// Whether there may be something to read.
    #[inline]
    #[must_use]
    pub fn readable(&self) -> bool {
        self.readable
    }

    /// Whether the sender has closed, or broke: what is still to be moved was
    /// sent before.
    #[inline]
    #[must_use]
    pub fn ending(&self) -> bool {
        self.ending || self.stage != Stage::Open
    }

    /// Whether this direction is over.
    #[inline]
    #[must_use]
    pub fn done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Gives this direction up: what is not written yet never will be.
    pub fn stop(&mut self) {
        self.stage = Stage::Done;
        self.unsent = None;
    }

    /// Moves what can be moved from `from` to `to`, and adds the bytes read to
    /// `moved`.
    ///
    /// # Errors
    /// One of the sockets failed; everything read before is written, unless it
    /// was writing that failed.
    pub fn pump(
        &mut self,
        mut from: impl Read,
        mut to: impl HalfClose,
        scratch: &mut [u8],
        moved: &mut usize,
    ) -> Result<Pumped, Broken> {
        let mut delivered = false;
        let broken = |at, delivered, error| Broken {
            at,
            delivered,
            error,
        };
        if let Some(unsent) = &mut self.unsent {
            let written = write(&mut to, &unsent.bytes[unsent.written..])
                .map_err(|error| broken(End::To, false, error))?;
            unsent.written += written;
            if unsent.written < unsent.bytes.len() {
                return Ok(Pumped::Waiting);
            }
            delivered = true;
            self.unsent = None;
        }
        for _ in 0..ROUNDS_MAX {
            match self.stage {
                Stage::Open => {}
                Stage::Ended => {
                    to.finish();
                    self.stage = Stage::Done;
                    return Ok(Pumped::Done);
                }
                Stage::Done => return Ok(Pumped::Done),
            }
            if !self.readable {
                return Ok(Pumped::Waiting);
            }
            let count = match from.read(scratch) {
                Ok(0) => {
                    self.stage = Stage::Ended;
                    continue;
                }
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(End::From, delivered, error)),
            };
            *moved += count;
            // A short read emptied the socket; what comes later makes an edge.
            if count < scratch.len() && !self.ending {
                self.readable = false;
            }
            let written = write(&mut to, &scratch[..count])
                .map_err(|error| broken(End::To, delivered, error))?;
            delivered = true;
            if written < count {
                self.unsent = Some(Box::new(Unsent {
                    bytes: scratch[written..count].to_vec(),
                    written: 0,
                }));
                return Ok(Pumped::Waiting);
            }
        }
        Ok(if self.stage == Stage::Open && !self.readable {
            Pumped::Waiting
        } else {
            Pumped::Again
        })
    }
}

/// One write; a full socket takes 0 bytes.
fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match to.write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            written => return written,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A socket by script: each read or write takes the next entry.
    #[derive(Default)]
    struct Scripted {
        reads: VecDeque<io::Result<Vec<u8>>>,
        /// How much the next writes take; then everything.
        room: VecDeque<io::Result<usize>>,
        written: Vec<u8>,
        calls: usize,
        finished: bool,
    }

    impl Read for &mut Scripted {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.calls += 1;
            let bytes = self.reads.pop_front().unwrap_or_else(|| Err(blocked()))?;
            buffer[..bytes.len()].copy_from_slice(&bytes);
            Ok(bytes.len())
        }
    }

    impl Write for &mut Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            assert!(!self.finished, "nothing is written after FIN");
            let room = self.room.pop_front().unwrap_or(Ok(usize::MAX))?;
            let count = room.min(bytes.len());
            self.written.extend(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl HalfClose for &mut Scripted {
        fn finish(&mut self) {
            self.finished = true;
        }
    }

    fn blocked() -> io::Error {
        ErrorKind::WouldBlock.into()
    }

    fn reset() -> io::Error {
        ErrorKind::ConnectionReset.into()
    }

    fn reads<const N: usize>(reads: [io::Result<&[u8]>; N]) -> Scripted {
        Scripted {
            reads: reads
                .into_iter()
                .map(|one| one.map(<[u8]>::to_vec))
                .collect(),
            ..Scripted::default()
        }
    }

    fn pump(flow: &mut Flow, from: &mut Scripted, to: &mut Scripted) -> Result<Pumped, Broken> {
        let mut moved = 0;
        flow.pump(from, to, &mut [0; 4], &mut moved)
    }

    #[test]
    fn a_short_message_costs_one_read_and_one_write() {
        let (mut from, mut to) = (reads([Ok(b"abc")]), Scripted::default());
        let mut flow = Flow::default();
        flow.note_readable(false);
        assert_eq!(
            pump(&mut flow, &mut from, &mut to).unwrap(),
            Pumped::Waiting
        );
        assert_eq!((from.calls, to.calls), (1, 1));
        assert_eq!(to.written, b"abc");
        assert_eq!(
            pump(&mut flow, &mut from, &mut to).unwrap(),
            Pumped::Waiting
        );
        assert_eq!((from.calls, to.calls), (1, 1), "nothing without an edge");
    }

    #[test]
    fn a_full_read_goes_on_and_a_long_run_gives_way() {
        let full: &[u8] = b"abcd";
        let mut from = reads([Ok(full), Ok(full), Ok(full), Ok(full), Ok(full), Ok(b"e")]);
        let mut to = Scripted::default();
        let mut flow = Flow::default();
        flow.note_readable(false);
        assert_eq!(pump(&mut flow, &mut from, &mut to).unwrap(), Pumped::Again);
        assert_eq!(from.calls, ROUNDS_MAX);
        assert_eq!(
            pump(&mut flow, &mut from, &mut to).unwrap(),
            Pumped::Waiting
        );
        assert_eq!(to.written, b"abcdabcdabcdabcdabcde");
    }

    #[test]
    fn an_end_that_comes_with_the_last_bytes_is_read_without_another_edge() {
        let (mut from, mut to) = (reads([Ok(b"ab"), Ok(b"")]), Scripted::default());
        let mut flow = Flow::default();
        flow.note_readable(true);
        assert_eq!(pump(&mut flow, &mut from, &mut to).unwrap(), Pumped::Done);
        assert_eq!(to.written, b"ab");
        assert!(to.finished);
    }

    #[test]
    fn a_slow_receiver_stops_the_reading_and_gets_fin_last() {
        let mut from = reads([Ok(b"abcd"), Ok(b"ef"), Ok(b"")]);
        let mut to = Scripted {
            room: [Ok(1), Err(blocked()), Ok(1), Ok(2)].into(),
            ..Scripted::default()
        };
        let mut flow = Flow::default();
        flow.note_readable(true);
        for (unsent, reads) in [(3, 1), (3, 1), (2, 1)] {
            assert_eq!(
                pump(&mut flow, &mut from, &mut to).unwrap(),
                Pumped::Waiting
            );
            assert_eq!((flow.unsent(), from.calls), (unsent, reads));
        }
        assert_eq!(pump(&mut flow, &mut from, &mut to).unwrap(), Pumped::Done);
        assert_eq!(to.written, b"abcdef");
        assert!(to.finished && flow.done());
    }

    #[test]
    fn what_was_read_before_a_reset_is_delivered() {
        let (mut from, mut to) = (reads([Ok(b"bye"), Err(reset())]), Scripted::default());
        let mut flow = Flow::default();
        flow.note_readable(true);
        let broken = pump(&mut flow, &mut from, &mut to).unwrap_err();
        assert_eq!((broken.at, broken.delivered), (End::From, true));
        assert_eq!(to.written, b"bye");
        assert!(!to.finished);
    }

    #[test]
    fn a_receiver_that_breaks_is_named() {
        let mut from = reads([Ok(b"abc")]);
        let mut to = Scripted {
            room: [Err(reset())].into(),
            ..Scripted::default()
        };
        let mut flow = Flow::default();
        flow.note_readable(false);
        let broken = pump(&mut flow, &mut from, &mut to).unwrap_err();
        assert_eq!((broken.at, broken.delivered), (End::To, false));
        flow.stop();
        assert_eq!(pump(&mut flow, &mut from, &mut to).unwrap(), Pumped::Done);
    }
}
