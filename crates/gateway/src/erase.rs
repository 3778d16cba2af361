//! `DELETE /api/channels/{channel}/events`: an operator erases what is stored of a channel.

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use foghorn_auth::audit::{Action, Line};
use foghorn_core::channel::Channel;
use foghorn_http::Response;
use foghorn_http::body::json as json_response;
use foghorn_http::problem::Problem;
use foghorn_http::query::Query;

use crate::history::{bad_channel, unavailable};
use crate::http::{Api, DOOR};

/// How long a request goes on; who asks again goes on from there.
const PATIENCE: Duration = Duration::from_secs(20);

impl Api {
    /// Erases, and says how many events, and whether that was all.
    pub(crate) async fn erase(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        channel: &str,
        address: Option<IpAddr>,
    ) -> Result<Response, Problem> {
        let query = Query::parse(query, &[])?;
        let channel = Channel::parse(channel).map_err(|error| bad_channel(&error))?;
        let caller = self.caller(headers, &query).await?;
        self.check_admin(&caller)?;
        if let Some(room) = self.auth.audit.room(Action::Erased) {
            let (subject, on) = (caller.subject(), channel.as_str());
            room.say(&Line { door: DOOR, subject, address, on, ..Line::default() });
        }
        let (end, mut erased) = (Instant::now() + PATIENCE, 0);
        let complete = loop {
            let some = self.shared.log.erase(channel.clone()).await;
            match some.map_err(|error| unavailable(&error.to_string()))? {
                0 => break true,
                some => erased += some,
            }
            if Instant::now() >= end {
                break false;
            }
        };
        Ok(json_response(StatusCode::OK, &json!({ "erased": erased, "complete": complete })))
    }
}
