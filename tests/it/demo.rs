//! `foghorn demo`: whom it serves, and what the credential that it gives away is worth. What its page shows is tested in
//! Chromium (`clients/demo/test`).

use foghorn_tests::http::{Reply, get, request};
use foghorn_tests::process::{Process, Program};
use foghorn_tests::{PATIENCE, env};
use http::Method;
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

/// What browsers say of a request of the page's own.
const OWN_PAGE: (&str, &str) = ("sec-fetch-site", "same-origin");

struct Demo {
    _process: Process,
    origin: String,
}

impl Demo {
    async fn start() -> Self {
        let process = Process::spawn(Program::new(env::foghorn()).args(["demo", "--listen", "127.0.0.1:0"]));
        let said = |line: &str| {
            let (origin, _) = line.strip_prefix("The demo is at ")?.split_once("/ ")?;
            Some(origin.to_owned())
        };
        let origin = process.wait_for_log("where the demo is", PATIENCE, said).await;
        Demo { _process: process, origin }
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Reply {
        request(method, &format!("{}{path}", self.origin), headers, None).await.unwrap()
    }

    /// What the page is known by, as `name=value`.
    async fn cookie(&self) -> String {
        let given = self.ask(Method::POST, "/demo/session", &[OWN_PAGE]).await;
        assert_eq!(given.status, 204, "{given:?}");
        let cookie = given.headers["set-cookie"].to_str().unwrap();
        assert!(cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Strict"), "{cookie}");
        cookie.split(';').next().unwrap().to_owned()
    }
}

#[tokio::test]
async fn the_demo_refuses_addresses_that_others_can_reach() {
    let mut demo = Command::new(env::foghorn());
    demo.args(["demo", "--listen", "0.0.0.0:0"]).kill_on_drop(true);
    let ended = timeout(PATIENCE, demo.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("--listen: 0.0.0.0:0 can be reached from other machines"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_page_may_use_nothing_but_its_own_and_no_other_page_its_credential() {
    let demo = Demo::start().await;
    let page = get(&demo.origin).await.unwrap();
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let foreign = [("origin", "https://elsewhere.example"), ("sec-fetch-site", "cross-site")];
    let refused = demo.ask(Method::POST, "/demo/session", &foreign).await;
    assert_eq!((refused.status, refused.headers.get("set-cookie")), (403, None), "{refused:?}");
    // Under a name that somebody else has pointed here.
    let rebound = demo.ask(Method::POST, "/demo/session", &[("host", "elsewhere.example")]).await;
    assert!(
        (400..500).contains(&rebound.status) && !rebound.headers.contains_key("set-cookie"),
        "{rebound:?}"
    );
    let cookie = demo.cookie().await;
    for headers in [&[][..], &[("cookie", cookie.as_str())], &[("cookie", "foghorn_demo_0=x"), OWN_PAGE]] {
        let refused = demo.ask(Method::POST, "/demo/job", headers).await;
        assert!(matches!(refused.status, 401 | 403), "{headers:?}: {refused:?}");
    }
    let known = [("cookie", cookie.as_str()), OWN_PAGE];
    assert_eq!(demo.ask(Method::POST, "/demo/job", &known).await.status, 202);
    assert_eq!(demo.ask(Method::GET, "/demo/job", &known).await.status, 405);
    assert_eq!(demo.ask(Method::GET, "/demo/elsewhere", &known).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_credential_opens_what_the_page_shows_and_nothing_else() {
    let demo = Demo::start().await;
    let cookie = demo.cookie().await;
    let known = [("cookie", cookie.as_str()), OWN_PAGE];
    let history = demo.ask(Method::GET, "/api/channels/demo.log/events?limit=1", &known).await;
    assert_eq!(history.status, 200, "{history:?}");
    for (path, status) in [
        ("/api/channels/orders/events", 403),
        ("/api/events?channels=orders", 403),
        ("/api/dashboard/stream", 403),
        ("/api/admin/channels", 403),
    ] {
        let refused = demo.ask(Method::GET, path, &known).await;
        assert_eq!(refused.status, status, "{path}: {refused:?}");
    }
    let event = json!({ "channel": "demo.log", "event": "line", "data": "forged" });
    let published =
        request(Method::POST, &format!("{}/api/publish", demo.origin), &known, Some(&event)).await;
    assert_eq!(published.unwrap().status, 403);
}
