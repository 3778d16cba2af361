//! Each line of the input as an event, in order and as soon as it is there.
//!
//! One request is under way at a time, which is what keeps the order; lines that come meanwhile go with
//! the next one. When the server is slower than the input, the input is read no further.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::process::ExitCode;

use tokio::sync::mpsc;

use super::batch::{Event, Line, Numbered, Splitter, take_batch};
use super::report::Report;
use super::send::{Sender, Sent};
use crate::client::interrupt::Interrupts;

/// Bytes read of the input at a time, and how many such pieces may wait.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES_MAX: usize = 8;

/// Publishes until the input is over, or told to stop: then what has been read is published still, unless
/// told again.
pub(super) async fn publish<O: Write, E: Write>(
    json_data: bool,
    sender: Sender,
    input: Box<dyn Read + Send>,
    mut report: Report<O, E>,
    interrupts: &mut Interrupts,
) -> anyhow::Result<ExitCode> {
    let mut source = Source::new(input, json_data);
    let mut ended = false;
    let mut given_up = false;
    while !given_up {
        let batch = source.batch(&mut report)?;
        if !batch.is_empty() {
            let (first, last) = (batch.first().and_then(|e| e.line), batch.last().and_then(|e| e.line));
            let mut sending = Box::pin(sender.deliver(batch, &mut report));
            let mut sent = tokio::select! {
                sent = &mut sending => Some(sent),
                () = interrupts.next() => None,
            };
            if sent.is_none() && !std::mem::replace(&mut ended, true) {
                source.stop();
                eprintln!("foghorn: publishing what has been read; interrupt again to stop at once");
                sent = tokio::select! {
                    sent = &mut sending => Some(sent),
                    () = interrupts.next() => None,
                };
            }
            drop(sending);
            let sent = sent.unwrap_or_else(|| {
                let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
                report
                    .note(&format!("stopped: which of lines {first} to {last} are published is unknown"))?;
                Ok(Sent::GaveUp)
            });
            given_up = sent? == Sent::GaveUp;
            report.progress()?;
        } else if ended {
            break;
        } else {
            tokio::select! {
                more = source.wait() => ended = !more,
                () = interrupts.next() => {
                    ended = true;
                    source.stop();
                }
            }
        }
    }
    source.close(given_up, &mut report)?;
    report.summary(source.splitter.lines())?;
    let failed = report.counts.failed > 0 || given_up || source.failure.is_some();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The input, read by a thread of its own: a read of a terminal or a pipe can't be given up, and must not
/// keep the process from ending.
struct Source {
    pieces: mpsc::Receiver<std::io::Result<Vec<u8>>>,
    splitter: Splitter,
    lines: VecDeque<Line>,
    run: String,
    json_data: bool,
    failure: Option<String>,
}

impl Source {
    fn new(mut input: Box<dyn Read + Send>, json_data: bool) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        std::thread::spawn(move || {
            let mut buffer = vec![0; PIECE_BYTES];
            loop {
                let piece = match input.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(length) => Ok(buffer[..length].to_vec()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = piece.is_err();
                if sender.blocking_send(piece).is_err() || failed {
                    return;
                }
            }
        });
        // Ids of one run are its own, and ids of a line the same however often it is sent.
        let run = format!("{:012x}", rand::random::<u64>() >> 16);
        let (splitter, lines) = (Splitter::default(), VecDeque::new());
        Source { pieces, splitter, lines, run, json_data, failure: None }
    }

    /// Waits for more input. False when it is over.
    async fn wait(&mut self) -> bool {
        match self.pieces.recv().await {
            Some(piece) => {
                self.take(piece);
                true
            }
            None => {
                self.splitter.finish(&mut self.lines);
                false
            }
        }
    }

    /// Reads no further.
    fn stop(&mut self) {
        self.pieces.close();
        while let Ok(piece) = self.pieces.try_recv() {
            self.take(piece);
        }
    }

    /// Whether there is, or may come, what has not been sent.
    fn has_more(&mut self) -> bool {
        loop {
            match self.pieces.try_recv() {
                Ok(piece) => self.take(piece),
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => break,
            }
            if !self.lines.is_empty() {
                return true;
            }
        }
        !self.lines.is_empty() || self.splitter.is_within_line()
    }

    fn take(&mut self, piece: std::io::Result<Vec<u8>>) {
        match piece {
            Ok(bytes) => self.splitter.feed(&bytes, &mut self.lines),
            Err(error) => self.failure = Some(format!("can't read on: {error}")),
        }
    }

    /// The lines that are there, as many as go into one request. Bad ones are reported and left out, so
    /// it is empty only when there are none at all.
    fn batch<O: Write, E: Write>(&mut self, report: &mut Report<O, E>) -> anyhow::Result<Vec<Numbered>> {
        loop {
            while self.lines.len() < super::batch::BATCH_EVENTS {
                let Ok(piece) = self.pieces.try_recv() else { break };
                self.take(piece);
            }
            let lines = take_batch(&mut self.lines);
            let empty = lines.is_empty();
            let mut events = Vec::with_capacity(lines.len());
            for Line { number, text } in lines {
                match text.and_then(|text| super::data(text, self.json_data)) {
                    Ok(data) => {
                        let event = Event { id: format!("{}-{number}", self.run), data };
                        events.push(Numbered { line: Some(number), event });
                    }
                    Err(why) => report.unusable(Some(number), &why)?,
                }
            }
            if empty || !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Says what was read and is not published.
    fn close<O: Write, E: Write>(&mut self, given_up: bool, report: &mut Report<O, E>) -> anyhow::Result<()> {
        if let Some(failure) = &self.failure {
            report.note(failure)?;
        }
        if given_up && self.has_more() {
            let from = self.lines.front().map_or(self.splitter.lines() + 1, |line| line.number);
            report.note(&format!("gave up: nothing from line {from} on was tried"))?;
        } else if self.splitter.is_within_line() && !given_up {
            let line = self.splitter.lines() + 1;
            report.note(&format!("line {line} was not finished and is not published"))?;
        }
        Ok(())
    }
}
