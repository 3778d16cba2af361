//! Pages of other origins: in a real browser, and header by header at every door.

use fantoccini::Client;
use foghorn_tests::chrome::Chrome;
use foghorn_tests::http::{Reply, request};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Issuer, bearer};
use crate::deployment::Cluster;

/// Serves an empty page at every path, on a port of its own, for as long as the test runs.
async fn pages() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await?);
                }
                let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 16\r\n\
                            Connection: close\r\n\r\n<title>a</title>";
                socket.write_all(page.as_bytes()).await
            });
        }
    });
    port
}

/// What a script of the page comes to: the last argument is called with it.
async fn run(page: &Client, script: &str, arguments: Vec<Value>) -> Value {
    page.execute_async(script, arguments).await.unwrap()
}

/// Opens an EventSource as a page does, with cookies or without, or with a ticket, and publishes once it is live.
const LISTEN: &str = r#"
const [url, token, how, done] = arguments;
const ticket = async () => {
  if (how !== "ticket") { return ""; }
  const headers = { "Authorization": "Bearer " + token };
  const answer = await fetch(url + "/api/events/ticket", { method: "POST", headers });
  return "&ticket=" + (await answer.json()).ticket;
};
ticket().then((query) => {
const source = new EventSource(url + "/api/events?channels=orders.1" + query, { withCredentials: how === "cookie" });
const end = (what) => { source.close(); done(what); };
source.addEventListener("error", () => end("error"));
source.addEventListener("message", (event) => end(event.data));
source.addEventListener("stream-live", async () => {
  const headers = { "Content-Type": "application/json", "Authorization": "Bearer " + token };
  const body = JSON.stringify({ channel: "orders.1", data: "from a page" });
  const answer = await fetch(url + "/api/publish", { method: "POST", headers, body });
  if (answer.status !== 200) { end("publish: " + answer.status); }
});
}).catch((error) => done(error.name));
"#;

/// Listens with fetch, as a client does that needs a header, and comes back with a cursor.
const FETCH: &str = r#"
const [url, token, done] = arguments;
const headers = { "Authorization": "Bearer " + token, "Last-Event-ID": "0" };
fetch(url + "/api/events?channels=orders.1", { headers }).then(async (answer) => {
  const reader = answer.body.getReader();
  const { value } = await reader.read();
  await reader.cancel();
  done([answer.status, new TextDecoder().decode(value).includes("connected")]);
}).catch((error) => done(error.name));
"#;

/// What a page can read of a refusal.
const REFUSED: &str = r#"
const [url, done] = arguments;
fetch(url + "/api/events?channels=orders.1").then(async (answer) => {
  done([answer.status, answer.headers.get("www-authenticate"), (await answer.json()).title]);
}).catch((error) => done(error.name));
"#;

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_8_no_authorization_header_in_a_browser_cookies_tickets_and_fetch_do_from_listed_origins_only()
 {
    let port = pages().await;
    let origins = format!("http://127.0.0.1:{port},http://*.app.localhost:{port}");
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[("FOGHORN_HTTP_ORIGINS", &origins)]).await;
    let url = server.url("");
    let grants = json!({ "subscribe": ["orders.>"], "publish": ["orders.>"] });
    let token = issuer.token("ann", &grants);
    let chrome = Chrome::start().await;
    let page = chrome.client();
    let go = async |host: &str| page.goto(&format!("http://{host}:{port}/")).await.unwrap();
    let listen = async |how: &str| run(page, LISTEN, vec![json!(url), json!(token), json!(how)]).await;
    let fetch = async || run(page, FETCH, vec![json!(url), json!(token)]).await;
    let refused = async || run(page, REFUSED, vec![json!(url)]).await;

    go("127.0.0.1").await;
    let cookie = format!("document.cookie = 'foghorn_token={token}; path=/; SameSite=Lax'");
    page.execute(&cookie, Vec::new()).await.unwrap();
    assert_eq!(listen("cookie").await, "from a page");
    assert_eq!(
        listen("").await,
        "error",
        "without credentials there is no cookie, and a header can't be given"
    );
    assert_eq!(listen("ticket").await, "from a page");
    assert_eq!(fetch().await, json!([200, true]));
    let readable = refused().await;
    assert_eq!((&readable[0], &readable[2].is_string()), (&json!(401), &true), "{readable}");
    assert!(readable[1].as_str().unwrap().starts_with("Bearer"), "{readable}");

    go("one.app.localhost").await;
    assert_eq!(fetch().await, json!([200, true]), "a wildcard");
    for host in ["localhost", "one.two.app.localhost", "app.localhost"] {
        go(host).await;
        assert_eq!(fetch().await, "TypeError", "{host} may not send the header");
        assert_eq!(refused().await, "TypeError", "{host} can read nothing");
    }
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// The doors of gateways and fan-outs answer alike, refusals too.
pub(super) async fn check(issuer: &Issuer, cluster: &Cluster) {
    let good = bearer(&issuer.token("ann", &json!({ "publish": ["orders.>"] })));
    let event = json!({ "channel": "orders.1", "data": "x" });
    let doors = [
        (Method::GET, cluster.gateways[0].url("/api/channels/orders.1/events"), None),
        (Method::POST, cluster.fanouts[0].url("/api/publish"), Some(&event)),
    ];
    for (method, url, body) in doors {
        for (origin, listed) in [
            ("https://app.example", true),
            ("https://any.pages.example", true),
            ("https://evil.example", false),
            ("null", false),
        ] {
            let asking = [
                ("origin", origin),
                ("access-control-request-method", method.as_str()),
                ("access-control-request-headers", "authorization,content-type"),
            ];
            let preflight = request(Method::OPTIONS, &url, &asking, None).await.unwrap();
            assert_eq!(preflight.status, if listed { 204 } else { 403 }, "{url} {origin}");
            assert_eq!(header(&preflight, "access-control-allow-headers").contains("last-event-id"), listed);
            let anonymous = [("origin", origin)];
            let anonymous = request(method.clone(), &url, &anonymous, body).await.unwrap();
            assert_eq!(anonymous.status, if listed { 401 } else { 403 }, "{url} {origin}");
            let known = [("origin", origin), ("authorization", good.as_str())];
            let known = request(method.clone(), &url, &known, body).await.unwrap();
            assert_eq!(known.status, if listed { 200 } else { 403 }, "{url} {origin}: {}", known.body);
            for reply in [preflight, anonymous, known] {
                assert_eq!(header(&reply, "vary"), "origin", "{url} {origin}");
                let expected = if listed { [origin, "true"] } else { ["", ""] };
                let allowed = ["access-control-allow-origin", "access-control-allow-credentials"];
                assert_eq!(allowed.map(|name| header(&reply, name)), expected, "{url} {origin}");
            }
        }
    }
}
