//! Publishes an event over NATS.
//!
//! ```sh
//! FOGHORN_TOKEN=… publish-nats nats://127.0.0.1:4222 orders.eu.42 paid payment-7781 '{"amount":990}'
//! ```

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use async_nats::{Client, HeaderMap, Request, RequestErrorKind};
use serde_json::Value;

const ATTEMPTS: u32 = 6;
const DEADLINE: Duration = Duration::from_secs(25);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, channel, event, id, data] = &arguments[..] else {
        bail!("usage: publish-nats URL CHANNEL EVENT ID DATA");
    };
    let mut headers = HeaderMap::new();
    // The id keeps it from being published twice. Headers' names are as case-sensitive as all of NATS.
    headers.insert("Foghorn-Event", event.as_str());
    headers.insert("Foghorn-Id", id.as_str());
    if let Ok(token) = std::env::var("FOGHORN_TOKEN") {
        headers.insert("Authorization", format!("Bearer {token}"));
    }
    let client = async_nats::connect(url).await?;
    let answer = publish(&client, channel, &headers, data).await?;
    let at = &answer["position"];
    println!("stored at {}/{}/{}", at["shard"], at["epoch"], at["seq"]);
    Ok(())
}

/// The answer, or the error of the last attempt.
async fn publish(client: &Client, channel: &str, headers: &HeaderMap, data: &str) -> Result<Value> {
    let mut attempt = 0;
    loop {
        let request = Request::new().headers(headers.clone()).payload(data.to_owned().into());
        let asked =
            client.send_request(format!("foghorn.publish.{channel}"), request.timeout(Some(DEADLINE)));
        let failure = match asked.await {
            Ok(reply) => {
                let answer: Value = serde_json::from_slice(&reply.payload)?;
                let Some(problem) = answer.get("error") else { return Ok(answer) };
                // The same problem as over HTTP: below 500, but for 429, nothing is changed by trying again.
                let status = problem["status"].as_u64().unwrap_or(500);
                if status < 500 && status != 429 {
                    bail!("refused: {problem}");
                }
                anyhow!("not published: {problem}")
            }
            Err(error)
                if matches!(error.kind(), RequestErrorKind::TimedOut | RequestErrorKind::NoResponders) =>
            {
                error.into()
            }
            Err(error) => return Err(error.into()),
        };
        attempt += 1;
        if attempt == ATTEMPTS {
            return Err(failure);
        }
        let bound = Duration::from_millis(100 << attempt).min(Duration::from_secs(5));
        tokio::time::sleep(bound.mul_f64(fastrand::f64())).await;
    }
}
