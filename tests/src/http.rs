//! Requests that have one answer.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::Value;

use crate::{PATIENCE, net};

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body: the JSON it is, or else its text as a JSON string, or null for none.
    pub body: Value,
}

/// `GET url`
pub async fn get(url: &str) -> Result<Reply> {
    request(Method::GET, url, &[], None).await
}

/// `POST url` with `body` as JSON.
pub async fn post(url: &str, body: &Value) -> Result<Reply> {
    request(Method::POST, url, &[], Some(body)).await
}

/// What a metric of the process with this admin address (or `https://` URL) says: the sum of all its lines that begin
/// so.
///
/// # Panics
///
/// When there are no metrics.
pub async fn metric(admin: &str, beginning: &str) -> f64 {
    let scheme = if admin.contains("://") { "" } else { "http://" };
    let reply = get(&format!("{scheme}{admin}/metrics")).await.expect("metrics are answered");
    let text = reply.body.as_str().expect("metrics are text").to_owned();
    let lines = text.lines().filter(|line| line.starts_with(beginning));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Any request; a `Content-Type` for `body` is added unless `headers` have one.
pub async fn request(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Result<Reply> {
    let mut builder = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if body.is_some() && !typed {
        builder = builder.header("content-type", "application/json");
    }
    let bytes = body.map_or_else(Bytes::new, |json| json.to_string().into());
    let response =
        net::send(builder.body(Full::new(bytes)).with_context(|| format!("a request to {url}"))?).await?;
    Reply::read(response).await.with_context(|| url.to_owned())
}

impl Reply {
    /// Reads an answer to its end.
    pub(crate) async fn read(response: Response<Incoming>) -> Result<Self> {
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await;
        let body = body.with_context(|| format!("the body did not end within {PATIENCE:?}"))?;
        let body = body.context("reading the body")?.to_bytes();
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: json(&body) })
    }
}

fn json(body: &[u8]) -> Value {
    match body {
        [] => Value::Null,
        text => serde_json::from_slice(text).unwrap_or_else(|_| String::from_utf8_lossy(text).into()),
    }
}
