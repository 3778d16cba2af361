//! Standalone's page in a real browser.

use std::time::Duration;

use fantoccini::{Client, Locator};
use foghorn_tests::chrome::Chrome;
use foghorn_tests::http::{get, post};
use foghorn_tests::wait::until;
use serde_json::json;

use crate::deployment::standalone;

const LIMIT: Duration = Duration::from_secs(20);

async fn fill(page: &Client, id: &str, text: &str) {
    let field = page.find(Locator::Id(id)).await.unwrap();
    field.clear().await.unwrap();
    field.send_keys(text).await.unwrap();
}

async fn click(page: &Client, id: &str) {
    page.find(Locator::Id(id)).await.unwrap().click().await.unwrap();
}

/// The data of the events that the page shows, as `type channel text`.
async fn shown(page: &Client) -> Vec<String> {
    let script = "return [...document.querySelectorAll('#events .event')].map(e => e.dataset.type + ' ' + e.dataset.channel + ' ' + e.textContent)";
    let shown = page.execute(script, Vec::new()).await.unwrap();
    shown.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

async fn wait_for(page: &Client, parts: &[&str]) {
    until(&format!("{parts:?} on the page"), LIMIT, async || {
        shown(page).await.iter().any(|text| parts.iter().all(|part| text.contains(part))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_listens_publishes_and_comes_back() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display().to_string();
    let mut server = standalone(&["--data", &data], &[]).await;
    let page = get(&server.url("/")).await.unwrap();
    let policy = page.headers.get("content-security-policy").unwrap().to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");

    let chrome = Chrome::start().await;
    let page = chrome.client();
    page.goto(&server.url("/")).await.unwrap();
    fill(page, "channels", "news.*").await;
    click(page, "listen").await;
    let live = async |page: &Client| {
        until("the page to be live", LIMIT, async || {
            let state = page.find(Locator::Id("status")).await.ok()?.attr("data-state").await.ok()??;
            (state == "live").then_some(())
        })
        .await;
    };
    live(page).await;

    // From outside, and data are shown as text.
    let hostile = "<img src=x onerror=alert(1)>";
    let published =
        post(&server.url("/api/publish"), &json!({ "channel": "news.eu", "data": hostile })).await.unwrap();
    assert_eq!(published.status, 200);
    wait_for(page, &["message", "news.eu", hostile]).await;
    let images =
        page.execute("return document.querySelectorAll('#events img').length", Vec::new()).await.unwrap();
    assert_eq!(images, 0);

    // From the page, with a type.
    fill(page, "publish-channel", "news.us").await;
    fill(page, "publish-type", "headline").await;
    fill(page, "publish-data", "from the page").await;
    click(page, "publish").await;
    wait_for(page, &["headline", "news.us", "from the page"]).await;

    // Killed and back: the browser reconnects by itself and hears what it missed, once.
    server.kill();
    server.restart().await;
    let missed = json!({ "channel": "news.eu", "data": "while you were away" });
    assert_eq!(post(&server.url("/api/publish"), &missed).await.unwrap().status, 200);
    wait_for(page, &["while you were away"]).await;
    live(page).await;
    assert_eq!(shown(page).await.len(), 3, "{:?}", shown(page).await);
}
