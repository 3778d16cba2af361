//! What is looked at, in its order.

use std::time::{Duration, SystemTime};

use foghorn_core::sse::Block;
use foghorn_core::time::Timestamp;
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, StatusCode, Version};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Args;
use super::finding::Finding;
use super::stream::{self, FIRST_BYTES, Instead, Next, NoStream, PROMPT, Stream};
use crate::client::http::{Refusal, Server};

/// How far the clocks may be apart: tokens are good for as much longer (`auth.leeway`) by default.
const SKEW: Duration = Duration::from_secs(30);
/// Less than this of a compressed stream within [`PROMPT`] is not what it begins with.
const COMPRESSED_BYTES_MIN: usize = 48;
/// What a stream begins with that a gateway has compressed: a head of `gzip` of no particular system, and a stored block.
const GATEWAYS: [u8; FIRST_BYTES] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 0];
/// Longest pause that a stream of Foghorn's makes (`gateway.keep_alive_idle`), and some.
const PAUSE: Duration = Duration::from_secs(50);
/// Events to publish, how far apart, and how late each may be heard.
const EVENTS: u32 = 5;
const APART: Duration = Duration::from_millis(300);
const LATE: Duration = Duration::from_secs(1);

const BUFFERING: &str = "switch off response buffering for /api/events on every proxy between. nginx: \
    `proxy_buffering off;`, and no `proxy_ignore_headers X-Accel-Buffering`; ingress-nginx: the annotation \
    proxy-buffering: \"off\"; a CDN: no caching, and streaming on";
const COMPRESSION: &str = "exclude text/event-stream from compression on every proxy between. nginx: leave it out of \
    `gzip_types` (`*` has it too)";

/// Looks at one deployment.
pub(super) struct Doctor<'a, F> {
    server: Server,
    args: &'a Args,
    say: F,
}

/// A stream's beginning.
struct Beginning {
    cursor: Option<String>,
    retry_ms: Option<u64>,
    timestamp: Option<Timestamp>,
    recovered: bool,
}

impl<'a, F: FnMut(Finding)> Doctor<'a, F> {
    /// Has looked at nothing yet; `say` is given each finding as it is made.
    pub(super) fn new(server: Server, args: &'a Args, say: F) -> Self {
        Doctor { server, args, say }
    }

    /// Looks at everything.
    pub(super) async fn examine(&mut self) {
        let Some(mut stream) = self.reach().await else { return };
        self.version(&stream);
        self.caching(&stream);
        let beginning = self.buffering(&mut stream).await;
        if let Some(beginning) = &beginning {
            self.clock(&stream, beginning);
            self.retry(beginning);
            self.resume(beginning).await;
            drop(stream);
            self.compression().await;
        }
        if let Some(origin) = self.args.origin.clone() {
            self.cors(&origin).await;
        }
        if beginning.is_none() {
            return;
        }
        if self.args.publish {
            self.delivery().await;
        }
        if !self.args.watch.is_zero() {
            self.cuts().await;
        }
    }

    fn request(&self) -> RequestBuilder {
        self.asking(&[])
    }

    fn asking(&self, more: &[(&str, &str)]) -> RequestBuilder {
        let mut url = self.server.at("api/events");
        url.query_pairs_mut().append_pair("channels", self.args.channel.as_str()).extend_pairs(more);
        self.server.client.get(url).header("accept", "text/event-stream")
    }

    async fn reach(&mut self) -> Option<Stream> {
        let finding = match Stream::open(&self.server, self.request()).await {
            Ok(stream) => {
                let took = stream.answered - stream.asked;
                (self.say)(Finding::ok("reach", format!("a stream is answered after {}", ms(took))));
                return Some(stream);
            }
            Err(NoStream::Silent) if self.answers().await => Finding::wrong(
                "buffering",
                format!("a gateway answers, but of a stream nothing comes for {PROMPT:?}, not even its head"),
                BUFFERING,
            ),
            Err(NoStream::Silent) => Finding::wrong(
                "reach",
                format!("no answer for {PROMPT:?}"),
                "see whether proxies reach a gateway, and whether one is ready (/readyz on its admin port)",
            ),
            Err(NoStream::Unreachable(why)) => Finding::wrong("reach", why, "check the address"),
            Err(NoStream::Other(kind)) => Finding::wrong(
                "reach",
                format!("what answers is no event stream, but {kind}"),
                "have /api/events go to the gateways; something else answers there",
            ),
            Err(NoStream::Refused(refusal)) => refused("reach", &refusal),
        };
        (self.say)(finding);
        None
    }

    /// Whether a gateway answers what it can answer at once: a key that it doesn't know.
    async fn answers(&self) -> bool {
        let request = self.asking(&[("doctor", "1")]).timeout(PROMPT).send();
        request.await.is_ok_and(|answer| answer.status() == StatusCode::BAD_REQUEST)
    }

    fn version(&mut self, stream: &Stream) {
        let is_tls = self.args.url.scheme() == "https";
        let finding = match stream.version() {
            Version::HTTP_2 | Version::HTTP_3 => Finding::ok("http", format!("{:?}", stream.version())),
            version => Finding::advice(
                "http",
                format!("{version:?}{}", if is_tls { "" } else { ", without TLS" }),
                "offer HTTP/2 over TLS: over HTTP/1.1 a browser opens six connections to an origin, and each stream \
                 takes one",
            ),
        };
        (self.say)(finding);
    }

    fn caching(&mut self, stream: &Stream) {
        let said = stream.header("cache-control").unwrap_or_default();
        let missing: Vec<_> = ["no-store", "no-transform"]
            .into_iter()
            .filter(|word| !said.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
            .collect();
        (self.say)(if missing.is_empty() {
            Finding::ok("headers", format!("cache-control: {said}"))
        } else {
            Finding::wrong(
                "headers",
                format!("cache-control lacks {}, which gateways send: it says {said:?}", missing.join(", ")),
                "have proxies leave Cache-Control as it is: caches and transforming proxies hold streams back",
            )
        });
    }

    /// Whether a stream begins at once, and how.
    async fn buffering(&mut self, stream: &mut Stream) -> Option<Beginning> {
        let blocks = match stream.until("connected").await {
            Ok(blocks) => blocks,
            Err(instead) => {
                let held = format!(
                    "the answer's head comes, but nothing of the stream for {PROMPT:?} (it says `connected` at once)"
                );
                (self.say)(not_so("buffering", instead, held));
                return None;
            }
        };
        let took = stream.heard - stream.answered;
        (self.say)(Finding::ok("buffering", format!("the stream begins {} after its head", ms(took))));
        Some(Beginning::of(&blocks))
    }

    fn clock(&mut self, stream: &Stream, beginning: &Beginning) {
        let Some(theirs) = beginning.timestamp else { return };
        let ours = Timestamp::from_system(SystemTime::now()).minus(stream.heard.elapsed());
        let apart = ours.since(theirs).max(theirs.since(ours));
        (self.say)(if apart <= SKEW {
            Finding::ok("clock", format!("the gateway's and this machine's are {} apart", ms(apart)))
        } else {
            Finding::wrong(
                "clock",
                format!("the gateway's and this machine's are {apart:.0?} apart: there it is {theirs}"),
                "set both by NTP: tokens are taken too late or for too long, and retention goes by the gateway's time",
            )
        });
    }

    fn retry(&mut self, beginning: &Beginning) {
        (self.say)(match beginning.retry_ms {
            Some(ms) => Finding::ok("retry", format!("clients are told to come back after {ms} ms")),
            None => Finding::wrong(
                "retry",
                "the stream doesn't say `retry:`, which gateways do first",
                "see what rewrites the stream: without it all clients come back at once",
            ),
        });
    }

    /// Whether `Last-Event-ID` arrives.
    async fn resume(&mut self, beginning: &Beginning) {
        let Some(cursor) = &beginning.cursor else { return };
        let by_header = self.request().header("last-event-id", cursor);
        let header = self.recovers(by_header).await;
        let finding = match header {
            Err(finding) => finding,
            Ok(true) => Finding::ok("resume", "Last-Event-ID arrives, and the stream goes on from there"),
            Ok(false) => match self.recovers(self.asking(&[("lastEventId", cursor)])).await {
                Ok(true) => Finding::wrong(
                    "resume",
                    "Last-Event-ID doesn't arrive: who reconnects misses what came meanwhile",
                    "have proxies pass the header on. nginx: no `proxy_set_header Last-Event-ID`",
                ),
                Ok(false) => Finding::wrong(
                    "resume",
                    "the gateway doesn't go on from a cursor that was just given, by header or URL",
                    "see whether all gateways behind this address are of one cluster",
                ),
                Err(finding) => finding,
            },
        };
        (self.say)(finding);
    }

    async fn recovers(&self, request: RequestBuilder) -> Result<bool, Finding> {
        let mut stream = self.again(request, "resume").await?;
        let blocks = stream.until("connected").await.map_err(|instead| {
            not_so("resume", instead, format!("of a second stream nothing comes for {PROMPT:?}"))
        })?;
        Ok(Beginning::of(&blocks).recovered)
    }

    /// Another stream, now that one could be had.
    async fn again(&self, request: RequestBuilder, check: &'static str) -> Result<Stream, Finding> {
        Stream::open(&self.server, request).await.map_err(|why| match why {
            NoStream::Refused(refusal) => refused(check, &refusal),
            NoStream::Silent => {
                let seen = format!("another stream is not answered for {PROMPT:?}");
                Finding::wrong(check, seen, "see whether every gateway behind this address is ready")
            }
            NoStream::Unreachable(seen) => Finding::wrong(check, seen, "see what broke the connection"),
            NoStream::Other(kind) => {
                Finding::wrong(check, format!("another stream is {kind}"), "see what answers there")
            }
        })
    }

    /// Whether somebody compresses streams, and holds them back by it.
    async fn compression(&mut self) {
        let request = self.request().header("accept-encoding", "gzip, deflate, br, zstd");
        let mut stream = match self.again(request, "compression").await {
            Ok(stream) => stream,
            Err(finding) => return (self.say)(finding),
        };
        let Some(encoding) = stream.header("content-encoding").map(str::to_owned) else {
            return (self.say)(Finding::ok("compression", "streams come as they are"));
        };
        let deadline = Instant::now() + PROMPT;
        while stream.received < COMPRESSED_BYTES_MIN && matches!(stream.next(deadline).await, Next::Block(_))
        {
        }
        if stream.received >= COMPRESSED_BYTES_MIN && stream.first == GATEWAYS {
            let seen = "the gateway compresses streams, event by event";
            return (self.say)(Finding::ok("compression", seen));
        }
        (self.say)(if stream.received < COMPRESSED_BYTES_MIN {
            Finding::wrong(
                "compression",
                format!(
                    "streams are compressed ({encoding}), which holds events back: nothing came for {PROMPT:?}"
                ),
                COMPRESSION,
            )
        } else {
            Finding::advice(
                "compression",
                format!(
                    "a proxy compresses streams ({encoding}); events come, at the price of a window for each stream"
                ),
                COMPRESSION,
            )
        });
    }

    /// Whether a page of this origin may listen, and say where it goes on.
    async fn cors(&mut self, origin: &HeaderValue) {
        let url = self.server.at("api/events");
        let preflight = self.server.client.request(Method::OPTIONS, url).header("origin", origin);
        let preflight = preflight
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization,last-event-id")
            .timeout(PROMPT);
        let allowed = match preflight.send().await {
            Err(error) => Err(self.server.explain(&error)),
            Ok(answer) if !answer.status().is_success() => {
                Err(format!("a preflight is answered {}", answer.status()))
            }
            Ok(answer) => {
                let of = |name: &str| {
                    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
                };
                let named = of("access-control-allow-headers").to_lowercase();
                let named: Vec<_> = named.split(',').map(str::trim).collect();
                if answer.headers().get("access-control-allow-origin") != Some(origin) {
                    Err("a preflight doesn't let this origin in".to_owned())
                } else if of("access-control-allow-credentials") != "true" {
                    Err("a preflight doesn't allow credentials".to_owned())
                } else if !["authorization", "last-event-id"].iter().all(|name| named.contains(name)) {
                    Err(format!("a preflight allows the headers {:?} alone", named.join(", ")))
                } else {
                    Ok(())
                }
            }
        };
        let seen = match allowed {
            Err(why) => Err(why),
            Ok(()) => match Stream::open(&self.server, self.request().header("origin", origin)).await {
                Ok(stream) if stream.header("access-control-allow-credentials") != Some("true") => {
                    Err("the stream doesn't allow credentials".to_owned())
                }
                Ok(stream) => match stream.headers().get_all("access-control-allow-origin").iter().count() {
                    1 if stream.headers().get("access-control-allow-origin") == Some(origin) => Ok(()),
                    0 | 1 => Err("the stream doesn't name this origin, though a preflight does".to_owned()),
                    _ => Err("Access-Control-Allow-Origin comes twice, and browsers take neither".to_owned()),
                },
                Err(NoStream::Refused(refusal)) => Err(refusal.text),
                Err(_) => Err("a stream with this origin isn't answered".to_owned()),
            },
        };
        (self.say)(match seen {
            Ok(()) => Finding::ok("cors", "pages of this origin may listen, with credentials"),
            Err(why) => Finding::wrong(
                "cors",
                why,
                "list the origin in http.origins of the gateways, and leave CORS to them: proxies that answer \
                 OPTIONS, or add such headers, get in the way",
            ),
        });
    }

    /// Publishes, and sees how late that is heard.
    async fn delivery(&mut self) {
        let finding = match self.deliver().await {
            Ok(slowest) => {
                Finding::ok("delivery", format!("{EVENTS} events were heard, each within {}", ms(slowest)))
            }
            Err(finding) => finding,
        };
        (self.say)(finding);
    }

    async fn deliver(&self) -> Result<Duration, Finding> {
        let mut stream = self.again(self.request(), "delivery").await?;
        stream.until("stream-live").await.map_err(|instead| {
            not_so("delivery", instead, format!("a stream isn't live after {PROMPT:?}"))
        })?;
        let mut slowest = Duration::ZERO;
        for number in 0..EVENTS {
            let data = format!("doctor {number} {:08x}", rand::random::<u32>());
            let event = json!({ "channel": self.args.channel.as_str(), "data": data }).to_string();
            let sent = Instant::now();
            let request = self.server.client.post(self.server.at("api/publish")).body(event).timeout(PROMPT);
            let answer = request.header("content-type", "application/json").send().await;
            let answer = answer.map_err(|error| {
                Finding::wrong("delivery", self.server.explain(&error), "see the fan-outs")
            })?;
            if !answer.status().is_success() {
                return Err(refused("delivery", &Refusal::read(answer).await));
            }
            let deadline = sent + PROMPT;
            loop {
                match stream.next(deadline).await {
                    Next::Block(block) if block.data.as_deref() == Some(&data) => break,
                    Next::Block(_) => {}
                    _ => {
                        let seen = format!("an event that was acked isn't heard for {PROMPT:?}");
                        return Err(Finding::wrong("delivery", seen, BUFFERING));
                    }
                }
            }
            slowest = slowest.max(sent.elapsed());
            sleep(APART).await;
        }
        if slowest > LATE {
            let seen = format!("an event was heard only {} after it was published", ms(slowest));
            return Err(Finding::wrong("delivery", seen, BUFFERING));
        }
        Ok(slowest)
    }

    /// Watches a stream for as long as wanted.
    async fn cuts(&mut self) {
        let watch = self.args.watch;
        if !self.args.json {
            eprintln!("watching a stream for {watch:?}");
        }
        let mut stream = match self.again(self.request(), "cuts").await {
            Ok(stream) => stream,
            Err(finding) => return (self.say)(finding),
        };
        let begun = Instant::now();
        let mut pause = Duration::ZERO;
        let finding = loop {
            let heard = stream.heard;
            let next = stream.next(begun + watch).await;
            pause = pause.max(stream.heard - heard);
            let ended = match next {
                Next::Block(block) if block.event_type() == "stream-end" => {
                    let reason = stream::json(&block)["reason"].as_str().unwrap_or_default().to_owned();
                    break Finding::ok(
                        "cuts",
                        format!("the gateway itself ended the stream ({reason}): watch again"),
                    );
                }
                Next::Block(_) => continue,
                Next::Quiet => break watched(watch, pause.max(stream.heard.elapsed())),
                Next::End => "ended".to_owned(),
                Next::Broken(why) => format!("broken off ({why})"),
            };
            let (lived, silent) = (begun.elapsed(), stream.heard.elapsed());
            break Finding::wrong(
                "cuts",
                format!(
                    "the stream was {ended} after {:.1} s, the last {:.1} of them silent, without the gateway's word",
                    lived.as_secs_f64(),
                    silent.as_secs_f64()
                ),
                "lengthen the time that proxies allow. If it was silent: the idle or read timeout (nginx: \
                 proxy_read_timeout; load balancers: idle timeout), above gateway.keep_alive_idle. If it wasn't: \
                 the time for a whole request (Envoy: the route's timeout)",
            );
        };
        (self.say)(finding);
    }
}

impl Beginning {
    fn of(blocks: &[Block]) -> Self {
        let connected = blocks.iter().rfind(|block| block.event_type() == "connected");
        let data = connected.map(stream::json).unwrap_or_default();
        Beginning {
            cursor: blocks.iter().rev().find_map(|block| block.id.clone()),
            retry_ms: blocks.iter().find_map(|block| block.retry_ms),
            timestamp: data["timestamp"].as_str().and_then(|text| text.parse().ok()),
            recovered: data["recovered"] == true,
        }
    }
}

/// Why a stream doesn't say what it should; `held` if it says nothing.
fn not_so(check: &'static str, instead: Instead, held: String) -> Finding {
    match instead {
        Instead::Nothing => Finding::wrong(check, held, BUFFERING),
        Instead::Ended(reason) => Finding::wrong(
            check,
            format!("the gateway itself ends the stream: {reason}"),
            "see what docs/streams.md says of this reason; it may be over when you try again",
        ),
        Instead::End(seen) => Finding::wrong(check, seen, "see what broke the connection, or try again"),
    }
}

fn watched(watch: Duration, pause: Duration) -> Finding {
    if pause > PAUSE {
        let seen =
            format!("the stream stayed open, but was silent for {pause:.0?}: keep-alives don't come through");
        return Finding::wrong("cuts", seen, BUFFERING);
    }
    Finding::ok("cuts", format!("a stream stayed open for {watch:?}, never silent for more than {pause:.0?}"))
}

fn refused(check: &'static str, refusal: &Refusal) -> Finding {
    let mend = match refusal.status {
        StatusCode::UNAUTHORIZED => {
            "give a token in FOGHORN_TOKEN, or a channel that is public with --channel"
        }
        StatusCode::FORBIDDEN => "name a channel with --channel that the token may use",
        StatusCode::NOT_FOUND => "have /api reach Foghorn: this path isn't routed there",
        status if status.is_redirection() => "give the address that this leads to",
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            "see whether proxies reach a service that is ready (/readyz on its admin port)"
        }
        _ => "see what the answer says",
    };
    Finding::wrong(check, refusal.text.clone(), mend)
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
