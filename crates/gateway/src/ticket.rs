//! `POST /api/events/ticket`: a one-time ticket, and who opens a stream with it (`?ticket=`).
//!
//! EventSource comes back to the URL that it was given, with a ticket that is spent by then. So the stream that a
//! ticket opens sets a cookie that is named by the ticket and opens nothing but the URL with it. A reconnect by both
//! needs no look-up: it works on every gateway, and while NATS is down.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::body::Body;
use serde::Deserialize;
use serde_json::json;

use foghorn_auth::credential::{all_cookies, cookie};
use foghorn_auth::ticket::{COOKIE_BYTES_MAX, COOKIE_PREFIX, Pass, Sealer, Ticket};
use foghorn_auth::{Caller, Refusal};
use foghorn_bus::tickets::{TicketError, Tickets as Store};
use foghorn_http::Response;
use foghorn_http::body::{Unaccounted, json as json_response, read_json};
use foghorn_http::guard::{Asker, names_loopback};
use foghorn_http::problem::Problem;

use crate::http::{Api, check_number, topic};
use crate::metrics::TicketOutcome;

/// Where tickets are had.
pub(crate) const PATH: &str = "/api/events/ticket";
/// The key of a ticket in a stream's URL.
pub(crate) const TICKET: &str = "ticket";
/// Most bytes of a request: room for as many channels as a stream may have.
const BODY_BYTES: usize = 64 * 1024;
/// Where the cookies of tickets are sent: to streams, and to nothing that they would open otherwise.
const COOKIE_PATH: &str = "/api/events";
/// Most bytes of tickets' cookies that a browser is to send with each stream; beyond it those that it has had for the
/// longest are taken back. Proxies read 8 KiB of a line.
const COOKIES_BYTES_MAX: usize = 6 * 1024;

/// Where tickets wait to be redeemed, and what is sealed for them.
pub struct Tickets {
    store: Arc<dyn Store>,
    sealer: Sealer,
}

impl Tickets {
    /// In this store, sealed with the secret that all gateways of the cluster have.
    pub fn new(store: Arc<dyn Store>, secret: &[u8; 32]) -> Self {
        Tickets { store, sealer: Sealer::new(secret) }
    }
}

/// Who opens a stream, and what cookies are set for that: some if, and only if, a ticket was spent.
pub(crate) struct Opener {
    pub(crate) caller: Caller,
    pub(crate) cookies: Vec<HeaderValue>,
}

/// What a ticket may be asked for with.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// What its stream may listen to, `broadcast` and the subject's own channel aside.
    channels: Option<Vec<String>>,
}

impl Api {
    /// The answer to a request for a ticket.
    pub(crate) async fn issue<B>(
        &self,
        request: Request<B>,
        address: Option<IpAddr>,
    ) -> Result<Response, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let caller = self.poster(request.method(), request.uri(), request.headers()).await?;
        let known = self.auth.asks_nobody() || caller.identity().is_some();
        if !known {
            return Err(self.refused(&Refusal::NoCredential("a ticket".to_owned())));
        }
        let by = self.requester(caller, request.headers(), address);
        let caller = &by.caller;
        let origin = listed(request.extensions().get());
        let asked = if request.body().is_end_stream() {
            Asked::default()
        } else {
            let body = read_json(request, BODY_BYTES, &mut Unaccounted).await?;
            serde_json::from_slice(&body).map_err(|error| malformed(&error.to_string()))?
        };
        let channels = asked.channels.map(|list| {
            check_number(list.len(), self.shared.config.channels_per_connection)?;
            list.iter().map(|text| topic(text)).collect::<Result<Vec<_>, _>>()
        });
        let channels = channels.transpose()?;
        let granted = self.check_all(&by, channels.as_deref().unwrap_or_default()).await;
        granted.map_err(|why| self.refused(&why).of(caller.subject()))?;

        let (ticket, mut life) = (Ticket::random(), self.auth.ticket_life());
        if let Some(identity) = caller.identity() {
            // The stream that it opens isn't counted again.
            if let Err(limited) = self.limits.check_subject(caller) {
                return Err(self.too_many(
                    limited,
                    "more streams and tickets are asked for than gateway.subject_per_minute allows",
                ));
            }
            let pass = Pass::new(identity, channels, origin).ok_or_else(|| Problem::internal("no key"))?;
            life = life.min(pass.expires().since(self.shared.hub.clock.now())).max(Duration::from_secs(1));
            self.keep(&ticket, &pass, life).await?;
        }
        self.shared.hub.metrics.ticket(TicketOutcome::Issued);
        let answer = json!({ "ticket": ticket.reveal(), "expiresIn": life.as_secs() });
        let mut response = json_response(StatusCode::OK, &answer);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    async fn keep(&self, ticket: &Ticket, pass: &Pass, life: Duration) -> Result<(), Problem> {
        let Tickets { store, sealer } = &*self.tickets;
        let sealed =
            sealer.record(pass, ticket).ok_or_else(|| Problem::internal("a pass can't be sealed"))?;
        // Rather now than when it is redeemed.
        let bytes = sealed.len().div_ceil(3) * 4;
        if bytes > COOKIE_BYTES_MAX {
            return Err(malformed(&format!(
                "the token's grants and the channels would be a cookie of {bytes} bytes, which browsers don't keep \
                 (at most {COOKIE_BYTES_MAX}); name fewer channels, or patterns"
            )));
        }
        store.keep(ticket.id(), sealed.into(), life).await.map_err(|error| {
            let problem = match &error {
                TicketError::Full => {
                    self.shared.hub.metrics.ticket(TicketOutcome::Full);
                    let title = "Too many tickets wait to be redeemed";
                    Problem::new(StatusCode::TOO_MANY_REQUESTS, "tickets-full", title)
                }
                TicketError::Unavailable(why) => {
                    tracing::debug!(why, "a ticket could not be kept");
                    return self.refused_ticket(&unavailable());
                }
            };
            problem.detail(error.to_string()).retry_after(rand::random_range(1..=5))
        })
    }

    /// Who opens a stream with a ticket: by the cookie that its first stream was given, or else by spending it.
    pub(crate) async fn by_ticket(
        &self,
        text: &str,
        headers: &HeaderMap,
        page: Option<&Asker>,
    ) -> Result<Opener, Refusal> {
        let found = self.redeem(text, headers, page).await;
        self.shared.hub.metrics.ticket(match &found {
            Ok(opener) if opener.cookies.is_empty() => TicketOutcome::Resumed,
            Ok(_) => TicketOutcome::Redeemed,
            Err(why) if why.passes_after().is_some() => TicketOutcome::Unavailable,
            Err(_) => TicketOutcome::Refused,
        });
        found
    }

    async fn redeem(&self, text: &str, headers: &HeaderMap, page: Option<&Asker>) -> Result<Opener, Refusal> {
        let Tickets { store, sealer } = &*self.tickets;
        let ticket = Ticket::parse(text).ok_or(Refusal::BadTicket)?;
        if let Some(value) = cookie(headers, &ticket.cookie())? {
            let pass = sealer.open_cookie(value, &ticket).ok_or(Refusal::BadTicket)?;
            return Ok(Opener { caller: self.holder(&pass, page).await?, cookies: Vec::new() });
        }
        let failed = |error: TicketError| {
            tracing::debug!(%error, "a ticket could not be redeemed");
            unavailable()
        };
        let waiting = store.find(ticket.id()).await.map_err(failed)?.ok_or(Refusal::BadTicket)?;
        let pass = sealer.open_record(&waiting.value, &ticket).ok_or(Refusal::BadTicket)?;
        // Looked at before it is spent: whoever may not have it spends nobody's.
        let caller = self.holder(&pass, page).await?;
        let value = sealer.cookie(&pass, &ticket).ok_or(Refusal::BadTicket)?;
        if !store.spend(ticket.id(), waiting.revision).await.map_err(failed)? {
            return Err(Refusal::BadTicket);
        }
        let life = pass.expires().since(self.shared.hub.clock.now());
        Ok(Opener { caller, cookies: set_cookies(&ticket.cookie(), &value, life, headers, page) })
    }

    /// Whom a pass is for, if this page may use it and its token is still good.
    async fn holder(&self, pass: &Pass, page: Option<&Asker>) -> Result<Caller, Refusal> {
        if pass.origin() != listed(page).as_deref() {
            return Err(Refusal::ForeignTicket);
        }
        self.auth.patiently(|| self.auth.restored(pass)).await
    }

    fn refused_ticket(&self, why: &Refusal) -> Problem {
        self.shared.hub.metrics.ticket(TicketOutcome::Unavailable);
        self.refused(why)
    }
}

/// The listed origin of a page; none for one of the server's own, or for what is no page.
fn listed(page: Option<&Asker>) -> Option<String> {
    match page {
        Some(Asker::Listed(origin)) => Some(String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase()),
        Some(Asker::Own) | None => None,
    }
}

/// Jittered, so that those who wait for NATS don't come back together.
fn unavailable() -> Refusal {
    Refusal::TicketsUnavailable { seconds: rand::random_range(1..=5) }
}

fn malformed(what: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad-ticket-request", "No ticket can be had so").detail(what)
}

/// Sets a ticket's cookie for so long, and takes back those that a browser has had for the longest, if they would be
/// too many to send.
fn set_cookies(
    name: &str,
    value: &str,
    life: Duration,
    headers: &HeaderMap,
    page: Option<&Asker>,
) -> Vec<HeaderValue> {
    let attributes = attributes(headers, page);
    let set = |name: &str, value: &str, seconds: u64| {
        format!("{name}={value}; Path={COOKIE_PATH}; Max-Age={seconds}; HttpOnly; {attributes}")
    };
    let had: Vec<_> = all_cookies(headers).filter(|(name, _)| name.starts_with(COOKIE_PREFIX)).collect();
    let size = |name: &str, value: &str| name.len() + "=".len() + value.len() + "; ".len();
    let mut bytes = size(name, value) + had.iter().map(|(name, value)| size(name, value)).sum::<usize>();
    let too_old = had.iter().take_while(|(name, value)| {
        let is_too_much = bytes > COOKIES_BYTES_MAX;
        bytes -= size(name, value).min(bytes);
        is_too_much
    });
    let taken_back = too_old.map(|(name, _)| set(name, "", 0));
    let all = std::iter::once(set(name, value, life.as_secs())).chain(taken_back);
    all.filter_map(|line| HeaderValue::try_from(line).ok()).collect()
}

/// With what requests a browser is to send the cookie: those of pages of its own site, unless the page is of
/// another. Over plain HTTP to a loopback name not all browsers keep what is `Secure`.
fn attributes(headers: &HeaderMap, page: Option<&Asker>) -> &'static str {
    let is_same_site = headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes() == b"same-site");
    match page {
        Some(Asker::Listed(_)) if !is_same_site => "SameSite=None; Secure; Partitioned",
        _ if names_loopback(headers) => "SameSite=Lax",
        _ => "SameSite=Lax; Secure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn set(lines: &[(&'static str, &str)], page: &Asker) -> Vec<String> {
        let life = Duration::from_secs(60);
        let cookies = set_cookies("foghorn_ticket_n", "v", life, &headers(lines), Some(page));
        cookies.iter().map(|line| line.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_cookie_goes_to_streams_alone_and_across_sites_only_where_the_page_is_of_another() {
        let listed = Asker::Listed(HeaderValue::from_static("https://app.example"));
        let (host, here) = (("host", "events.example.com"), ("host", "127.0.0.1:8080"));
        for (lines, page, attributes) in [
            (&[host][..], &Asker::Own, "SameSite=Lax; Secure"),
            (&[here], &Asker::Own, "SameSite=Lax"),
            (&[host], &listed, "SameSite=None; Secure; Partitioned"),
            (&[here], &listed, "SameSite=None; Secure; Partitioned"),
            (&[host, ("sec-fetch-site", "cross-site")], &listed, "SameSite=None; Secure; Partitioned"),
            (&[host, ("sec-fetch-site", "same-site")], &listed, "SameSite=Lax; Secure"),
        ] {
            let expected =
                format!("foghorn_ticket_n=v; Path=/api/events; Max-Age=60; HttpOnly; {attributes}");
            assert_eq!(set(lines, page), [expected], "{lines:?}");
        }
    }

    #[test]
    fn cookies_that_a_browser_has_had_for_the_longest_make_room() {
        let value = "x".repeat(1010);
        let had: Vec<_> = (0..8).map(|n| format!("foghorn_ticket_{n}={value}")).collect();
        let line = format!("theme={}; {}", "d".repeat(5000), had.join("; "));
        let cookies = set(&[("host", "a.example"), ("cookie", &line)], &Asker::Own);
        let gone: Vec<_> = cookies[1..].iter().map(|line| &line[..20]).collect();
        assert_eq!(gone, ["foghorn_ticket_0=; P", "foghorn_ticket_1=; P", "foghorn_ticket_2=; P"]);
        assert!(cookies[1..].iter().all(|line| line.contains("Path=/api/events; Max-Age=0;")), "{cookies:?}");
    }
}
