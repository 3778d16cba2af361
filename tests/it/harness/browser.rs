//! Chromium.

use foghorn_tests::chrome::Chrome;
use foghorn_tests::nginx::Nginx;

use super::web::{Answer, Web, head};

#[tokio::test]
async fn the_browser_shows_a_page() {
    let page = "<title>Foghorn</title>";
    let web = Web::serve(move |_| Answer { first: head(200, "text/html") + page, rest: String::new() }).await;
    let chrome = Chrome::start().await;

    chrome.client().goto(&format!("http://{}/", web.address)).await.unwrap();
    assert_eq!(chrome.client().title().await.unwrap(), "Foghorn");
}

#[tokio::test]
async fn the_browser_speaks_http2_with_nginx() {
    let nginx = Nginx::start(
        "events {}
         http {
             {temporary}
             ssl_certificate cert.pem;
             ssl_certificate_key key.pem;
             server {
                 listen 127.0.0.1:{port} ssl http2;
                 default_type text/html;
                 location / { return 200 '<title>$server_protocol</title>'; }
             }
         }",
    )
    .await;
    let chrome = Chrome::start().await;

    chrome.client().goto(&nginx.url("/")).await.unwrap();
    assert_eq!(chrome.client().title().await.unwrap(), "HTTP/2.0");
}
