//! Who may notify whom, and whose notifications are whose.

use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, request};
use foghorn_tests::sse::SseClient;
use http::Method;
use serde_json::{Value, json};

use super::{Issuer, bearer};

async fn ask(
    server: &Foghorn,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> Reply {
    let authorization = token.map(bearer);
    let headers: Vec<(&str, &str)> =
        authorization.iter().map(|value| ("authorization", value.as_str())).collect();
    request(method, &server.url(&format!("/api/notifications{path}")), &headers, body).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_notify_whom_they_may_publish_to_and_users_have_their_own() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[]).await;
    let token = |subject: &str, grants: Value| Some(issuer.token(subject, &grants));
    let nobody = None;
    let (ann, bob) = (token("ann", json!({})), token("bob", json!({})));
    let shop = token("shop", json!({ "publish": ["user.*"] }));
    let narrow = token("narrow", json!({ "publish": ["user.bob", "orders.>"] }));
    let root = token("root", json!({ "role": "admin" }));
    let notice = json!({ "userId": "ann", "type": "info", "title": "t", "message": "m", "id": "1" });
    for (who, token, status) in [
        ("nobody", &nobody, 401),
        ("ann, who may publish nothing", &ann, 403),
        ("an admin, who may publish nothing", &root, 403),
        ("who may publish to another", &narrow, 403),
        ("who may publish to users", &shop, 201),
    ] {
        let reply = ask(&server, Method::POST, "", token.as_deref(), Some(&notice)).await;
        assert_eq!(reply.status, status, "{who}: {}", reply.body);
    }
    // Each row: who asks; whether they may have ann's listed, marked and erased, and what of ann's they get unasked.
    for (who, token, own, theirs, erased) in [
        ("nobody", &nobody, 401, 401, 401),
        ("bob", &bob, 200, 403, 403),
        ("a producer", &shop, 200, 403, 403),
        ("an admin", &root, 200, 403, 200),
        ("ann", &ann, 200, 200, 200),
    ] {
        // There for each row: the one before may have erased it.
        let there = ask(&server, Method::POST, "", shop.as_deref(), Some(&notice)).await;
        assert!([200, 201].contains(&there.status), "{}", there.body);
        let token = token.as_deref();
        let reply = ask(&server, Method::GET, "", token, None).await;
        assert_eq!(reply.status, own, "{who}: {}", reply.body);
        if own == 200 && who != "ann" {
            assert_eq!(reply.body["notifications"], json!([]), "{who}: their own are none");
        }
        for (method, path) in [
            (Method::GET, "?user=ann"),
            (Method::POST, "/1/read?user=ann"),
            (Method::POST, "/read-all?user=ann"),
        ] {
            let reply = ask(&server, method, path, token, None).await;
            assert_eq!(reply.status, theirs, "{who} {path}: {}", reply.body);
        }
        let marked = ask(&server, Method::POST, "/1/read", token, None).await;
        let expected = match (who, own) {
            ("ann", _) => 200,
            (_, 200) => 404,
            (_, refused) => refused,
        };
        assert_eq!(marked.status, expected, "{who}: an id is a user's own");
        let authorization = token.map(bearer);
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        let url = server.url("/api/notifications/stream?user=ann");
        let stream = SseClient::connect(&url, &headers).await.unwrap();
        assert_eq!(stream.status(), theirs, "{who}");
        let reply = ask(&server, Method::DELETE, "?user=ann", token, None).await;
        assert_eq!(reply.status, erased, "{who}: {}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_cookie_has_to_come_from_a_page_of_a_known_origin() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[]).await;
    let cookie = format!("foghorn_token={}", issuer.token("ann", &json!({})));
    let url = server.url("/api/notifications/read-all");
    for (headers, status) in [
        (vec![("cookie", cookie.as_str())], 403),
        (vec![("cookie", &cookie), ("origin", "https://evil.example")], 403),
        (vec![("cookie", &cookie), ("origin", "https://app.example")], 200),
        (vec![("cookie", &cookie), ("sec-fetch-site", "same-origin")], 200),
    ] {
        let reply = request(Method::POST, &url, &headers, None).await.unwrap();
        assert_eq!(reply.status, status, "{headers:?}: {}", reply.body);
    }
    // A page may erase, too, once it has asked for leave.
    let preflight = [("origin", "https://app.example"), ("access-control-request-method", "DELETE")];
    let reply = request(Method::OPTIONS, &server.url("/api/notifications"), &preflight, None).await.unwrap();
    assert!(reply.headers["access-control-allow-methods"].to_str().unwrap().contains("DELETE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_operator_erases_a_channel() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[]).await;
    let url = server.url("/api/channels/user.ann/events");
    let shop = issuer.token("shop", &json!({ "publish": ["user.*"] }));
    let root = issuer.token("root", &json!({ "role": "admin" }));
    let cookie = format!("foghorn_token={root}");
    let (ann, shop, root) = (bearer(&issuer.token("ann", &json!({}))), bearer(&shop), bearer(&root));
    for (who, headers, status) in [
        ("nobody", vec![], 401),
        ("its owner", vec![("authorization", ann.as_str())], 403),
        ("who publishes there", vec![("authorization", shop.as_str())], 403),
        ("an operator's browser, on some page", vec![("cookie", cookie.as_str())], 403),
        ("an operator", vec![("authorization", root.as_str())], 200),
    ] {
        let reply = request(Method::DELETE, &url, &headers, None).await.unwrap();
        assert_eq!(reply.status, status, "{who}: {}", reply.body);
    }
}
