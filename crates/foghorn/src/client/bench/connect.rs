//! What a connect costs a gateway, by how it says who connects: streams that are opened and left again, one after the
//! other. Linux only: the server is pinned to a core.

mod report;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use serde_json::Value;

use self::report::Report;
use super::folder::Folder;
use super::pinned::Pinned;
use super::rounds::per;
use super::scan::{Scanner, Seen};
use super::sweep::server::{Kind, Server};
use super::{at_least_one, progress, tokens};

/// How long a server may take for anything.
const DEADLINE: Duration = Duration::from_secs(30);
const BUFFER_BYTES: usize = 16 * 1024;

/// What `foghorn bench connect` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many streams are opened in a turn, one after the other
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = at_least_one)]
    connects: usize,
    /// How many users they are of, in turn
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    users: usize,
    #[command(flatten)]
    pinned: Pinned,
}

/// How it is said who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum By {
    Nothing,
    Token,
    Ticket,
    /// A token, where users may have only so many streams.
    LimitedToken,
}

impl By {
    const ALL: [By; 4] = [By::Nothing, By::Token, By::Ticket, By::LimitedToken];

    const fn name(self) -> &'static str {
        match self {
            By::Nothing => "anonymous",
            By::Token => "token",
            By::Ticket => "ticket",
            By::LimitedToken => "token, with a limit of streams",
        }
    }
}

/// Measures and prints.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.pinned.prepare(1)?;
    let mut rounds = Vec::new();
    for round in 0..args.pinned.rounds {
        let mut figures = [0.0; By::ALL.len()];
        // Each begins a round in turn, so that none always finds the machine as the same other left it.
        for at in 0..By::ALL.len() {
            let at = (at + round) % By::ALL.len();
            figures[at] = turn(args, By::ALL[at])?;
            let what = format_args!("{}: {:.0} connects a CPU second", By::ALL[at].name(), figures[at]);
            progress(round, args.pinned.rounds, what);
        }
        rounds.push(figures);
    }
    Report::of(args, &rounds)?.print(args.pinned.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Connects a CPU second, of one server, which is fresh.
fn turn(args: &Args, by: By) -> anyhow::Result<f64> {
    let folder = Folder::make("connect")?;
    let config = folder.write("foghorn.toml", &configuration(by))?;
    let server = Server::start_with(Kind::Foghorn, args.pinned.server_core, &["--config", &config])?;
    let tokens = (0..args.users).map(|user| tokens::token(&format!("user-{user}"), &[]));
    let tokens: Vec<String> = tokens.collect::<Result<_, _>>()?;
    let requests: Vec<String> = match by {
        By::Nothing => vec![request("", "")],
        By::Token | By::LimitedToken => {
            tokens.iter().map(|token| request("", &format!("Authorization: Bearer {token}\r\n"))).collect()
        }
        By::Ticket => {
            let tickets = tickets(server.address, &tokens, args.connects)?;
            tickets.iter().map(|ticket| request(&format!("&ticket={ticket}"), "")).collect()
        }
    };
    // What is made once is made, and a ticket is good once.
    if by != By::Ticket {
        connect(server.address, &requests[0])?;
    }
    let before = server.look()?;
    for request in requests.iter().cycle().take(args.connects) {
        connect(server.address, request)?;
    }
    let cpu_seconds = server.look()?.cpu_seconds - before.cpu_seconds;
    ensure!(cpu_seconds > 0.0, "nothing to be measured; use more --connects");
    Ok(per(args.connects as u64, cpu_seconds))
}

/// Opens a stream, hears that it is live, and leaves.
fn connect(server: SocketAddr, request: &str) -> anyhow::Result<()> {
    let mut socket = TcpStream::connect(server).context("can't connect")?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.write_all(request.as_bytes())?;
    let (mut scanner, mut live, mut buffer) = (Scanner::default(), false, [0; BUFFER_BYTES]);
    while !live {
        let count = socket.read(&mut buffer)?;
        ensure!(count > 0, "the server ended a stream before it was live, or refused it");
        scanner.feed(&buffer[..count], |seen| live |= seen == Seen::Live);
    }
    Ok(())
}

fn request(query: &str, headers: &str) -> String {
    format!("GET /api/events?channels=bench{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

/// So many tickets, of each user in turn.
fn tickets(server: SocketAddr, tokens: &[String], count: usize) -> anyhow::Result<Vec<String>> {
    let mut socket = TcpStream::connect(server).context("can't connect")?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_nodelay(true)?;
    let ticket = |token: &String| {
        let head = format!("Host: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n");
        socket.write_all(format!("POST /api/events/ticket HTTP/1.1\r\n{head}\r\n").as_bytes())?;
        // A short answer, which comes in one piece.
        let mut answer = [0; BUFFER_BYTES];
        let read = socket.read(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer[..read]);
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| serde_json::from_str::<Value>(body));
        let ticket = body.and_then(Result::ok).and_then(|body| Some(body["ticket"].as_str()?.to_owned()));
        ticket.with_context(|| format!("asking for a ticket was answered {answer:?}"))
    };
    tokens.iter().cycle().take(count).map(ticket).collect()
}

/// Nobody is slowed down.
fn configuration(by: By) -> String {
    let streams = if by == By::LimitedToken { 50 } else { 0 };
    format!(
        "[gateway]\naddress_per_minute = 0\nsubject_per_minute = 0\nstreams_per_second = 0\n\
         subject_streams = {streams}\n{}[[policy]]\npattern = \"bench\"\naccess = \"public\"\n",
        tokens::configuration()
    )
}
