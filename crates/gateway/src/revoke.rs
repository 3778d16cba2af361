//! `POST /api/admin/revoke`: an operator revokes a subject's tokens, one token, or one stream.

use std::net::IpAddr;
use std::str::FromStr as _;

use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Body;
use serde::Deserialize;
use serde_json::json;

use foghorn_auth::audit::{Action, Line};
use foghorn_auth::revocation::{Key, REVOCATIONS_MAX, Revocation, StoreError};
use foghorn_core::time::Timestamp;
use foghorn_http::Response;
use foghorn_http::body::{Unaccounted, json as json_response, read_json};
use foghorn_http::problem::Problem;

use crate::client_id::ClientId;
use crate::http::{Api, DOOR};

/// Where it is answered.
pub(crate) const PATH: &str = "/api/admin/revoke";
/// Most bytes of a request: a subject is part of a token, which has no more.
const BODY_BYTES: usize = 16 * 1024;

/// What is to be revoked, by exactly one of the first three.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Asked {
    subject: Option<String>,
    token_id: Option<String>,
    connection: Option<String>,
    /// When what is revoked expires, where that is known.
    expires: Option<String>,
}

impl Api {
    /// The answer to a request to revoke something. By then it is kept, and holds here.
    pub(crate) async fn revoke<B>(
        &self,
        request: Request<B>,
        address: Option<IpAddr>,
    ) -> Result<Response, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let caller = self.poster(request.method(), request.uri(), request.headers()).await?;
        self.check_admin(&caller)?;
        let body = read_json(request, BODY_BYTES, &mut Unaccounted).await?;
        let (named, revocation) = self.read(&body)?;
        let revocations = self.auth.revocations();
        let kept = if revocations.len() >= REVOCATIONS_MAX {
            Err(StoreError::Full)
        } else {
            self.revocations.keep(revocation).await
        };
        kept.map_err(|error| not_kept(&error))?;
        revocations.apply([revocation]);
        if let Some(room) = self.auth.audit.room(Action::Revoked) {
            // By a digest: what is revoked may be nobody's business who reads logs.
            let on = format!("{} until {}", revocation.key, revocation.until);
            let subject = caller.subject();
            room.say(&Line { door: DOOR, subject, address, on: &on, ..Line::default() });
        }
        Ok(json_response(StatusCode::OK, &json!({ "revoked": named, "until": revocation.until.to_string() })))
    }

    /// What is to be revoked, by which of its names, and until when.
    fn read(&self, body: &[u8]) -> Result<(&'static str, Revocation), Problem> {
        let asked: Asked = serde_json::from_slice(body).map_err(|error| malformed(&error.to_string()))?;
        let given = (&asked.subject, &asked.token_id, &asked.connection);
        let (named, key) = match given {
            (Some(subject), None, None) if !subject.is_empty() => ("subject", Key::subject(subject)),
            (None, Some(id), None) if !id.is_empty() => ("tokenId", Key::token_id(id)),
            (None, None, Some(id)) => ("connection", Key::stream(client_id(id)?.get())),
            _ => return Err(malformed("give exactly one of subject, tokenId and connection, and not empty")),
        };
        let said = self.shared.hub.clock.now();
        let longest = said.plus(self.auth.longest_life());
        let until = match &asked.expires {
            None => longest,
            Some(text) => {
                let time = Timestamp::from_str(text);
                let time =
                    time.map_err(|error| malformed(&format!("expires: {error}")).member("key", "expires"))?;
                // Tokens are taken for the leeway after they expire.
                time.plus(self.auth.leeway()).min(longest).max(said)
            }
        };
        Ok((named, Revocation { key, said, until }))
    }
}

/// As `connected` tells it: 32 hexadecimal digits.
fn client_id(text: &str) -> Result<ClientId, Problem> {
    ClientId::parse(text)
        .ok_or_else(|| malformed("connection: is the clientId of a stream, 32 hexadecimal digits"))
}

fn malformed(what: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad-revocation", "The revocation is malformed").detail(what)
}

fn not_kept(error: &StoreError) -> Problem {
    let title = "The revocation was not kept";
    let problem = match error {
        StoreError::Full => Problem::new(StatusCode::TOO_MANY_REQUESTS, "revocations-full", title),
        StoreError::Unavailable(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "revocations-unavailable", title)
        }
    };
    problem.detail(error.to_string()).retry_after(rand::random_range(1..=3))
}
