//! What a process did to its folder, and what it told others meanwhile, read from what strace wrote.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The system calls that are recorded.
pub(super) const CALLS: &str =
    "openat,pwrite64,ftruncate,fsync,fdatasync,unlink,rename,mkdir,write,writev,sendto,sendmsg";

/// Something that happened, after everything before it.
#[derive(Debug)]
pub(super) enum Step {
    MakeFolder(PathBuf),
    /// Opened to be written, and made unless it is there.
    Open(PathBuf),
    Write {
        path: PathBuf,
        offset: usize,
        data: Vec<u8>,
    },
    Truncate {
        path: PathBuf,
        length: usize,
    },
    /// A file or a folder.
    Sync(PathBuf),
    Remove(PathBuf),
    /// Somebody is about to learn that these events are stored: their publisher, or a listener.
    Told(Vec<usize>),
    /// The process, or a thread of it, was killed.
    Killed,
}

/// Reads a trace of what happened below `root`.
pub(super) fn read(trace: &str, root: &Path) -> Vec<Step> {
    let mut unfinished: HashMap<&str, String> = HashMap::new();
    let mut steps = Vec::new();
    for line in trace.lines() {
        let (process, event) = line.trim_start().split_once(' ').unwrap();
        let event = event.trim_start();
        if let Some(begun) = event.strip_suffix("<unfinished ...>") {
            // Who is told may know it before the call returns.
            steps.extend(told(begun));
            unfinished.insert(process, begun.to_owned());
        } else if let Some((_, rest)) = event.strip_prefix("<... ").and_then(|it| it.split_once("resumed>")) {
            let whole = unfinished.remove(process).unwrap() + rest;
            steps.extend(step(&whole, root));
        } else if event.starts_with("+++ killed") {
            steps.push(Step::Killed);
        } else if !event.starts_with(['-', '+']) {
            steps.extend(told(event));
            steps.extend(step(event, root));
        }
    }
    steps
}

/// A call that has ended well and changed something below `root`.
fn step(call: &str, root: &Path) -> Option<Step> {
    let (name, rest) = call.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(") ").map(|(all, result)| (all, result.trim_start()))?;
    let result = result.strip_prefix("= ")?;
    if !result.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let arguments = arguments.trim_end();
    let opened = || PathBuf::from(opened(arguments).unwrap());
    let named = || PathBuf::from(String::from_utf8(texts(arguments).next().unwrap()).unwrap());
    let last = || arguments.rsplit(", ").next().unwrap().parse().unwrap();
    let made = match name {
        "mkdir" => Step::MakeFolder(named()),
        "unlink" => Step::Remove(named()),
        "openat" if arguments.contains("O_CREAT") => Step::Open(named()),
        "pwrite64" => Step::Write { path: opened(), offset: last(), data: texts(arguments).next().unwrap() },
        "ftruncate" => Step::Truncate { path: opened(), length: last() },
        "fsync" | "fdatasync" => Step::Sync(opened()),
        "openat" => return None,
        _ => {
            let path = if name == "rename" { named() } else { opened() };
            assert!(!keeps(&path, root), "a test must know what this does: {call:.200}");
            return None;
        }
    };
    let (Step::MakeFolder(path) | Step::Remove(path) | Step::Open(path) | Step::Sync(path)) = &made else {
        let (Step::Write { path, .. } | Step::Truncate { path, .. }) = &made else { return None };
        return keeps(path, root).then_some(made);
    };
    keeps(path, root).then_some(made)
}

/// Whether what is in there has to outlive the machine. The index of the log is made anew at each start, and so is the
/// secret of tickets where there is none: cookies of theirs are worth nothing then, and no event.
fn keeps(path: &Path, root: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.starts_with(root) && !name.ends_with("-shm") && !name.starts_with("ticket-secret")
}

/// Events that somebody is told of: an answer to a publisher has the id, a stream the data.
fn told(call: &str) -> Option<Step> {
    let (name, arguments) = call.split_once('(')?;
    if !["write", "writev", "sendto", "sendmsg"].contains(&name) || !opened(arguments)?.starts_with("socket:")
    {
        return None;
    }
    let sent: Vec<u8> = texts(arguments).flatten().collect();
    let sent = String::from_utf8_lossy(&sent);
    let answered =
        sent.contains("\"position\"").then(|| numbers(&sent, "\"id\":\"e-", '"')).into_iter().flatten();
    let events: Vec<usize> = answered.chain(numbers(&sent, "data: e-", ' ')).collect();
    (!events.is_empty()).then_some(Step::Told(events))
}

fn numbers<'a>(text: &'a str, before: &'a str, after: char) -> impl Iterator<Item = usize> + 'a {
    text.split(before).skip(1).filter_map(move |rest| rest.split_once(after)?.0.parse().ok())
}

/// The texts among a call's arguments.
fn texts(arguments: &str) -> impl Iterator<Item = Vec<u8>> {
    arguments.split('"').skip(1).step_by(2).map(bytes)
}

/// What the first file descriptor among the arguments is of.
fn opened(arguments: &str) -> Option<String> {
    String::from_utf8(bytes(arguments.split_once('<')?.1.split_once('>')?.0)).ok()
}

/// Of a text that is written as `\x2f\x74`.
fn bytes(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|two| u8::from_str_radix(two, 16).unwrap()).collect()
}
