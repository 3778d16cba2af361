//! Where a token may come from, and where none is ever seen.

use foghorn_rpc::v1::{PublishRequest, publisher_client::PublisherClient};
use foghorn_tests::collector::Collector;
use foghorn_tests::http::{Reply, get, request};
use foghorn_tests::sse::SseClient;
use http::Method;
use serde_json::json;

use super::{Issuer, bearer};

fn kind(reply: &Reply) -> &str {
    reply.body["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_counts_only_from_a_page_of_an_allowed_origin() {
    let issuer = Issuer::new();
    let process = issuer
        .standalone("cookie = \"session\"", &[("FOGHORN_HTTP_ORIGINS", "https://app.example.com")])
        .await;
    let token = issuer.token("ann", &json!({ "publish": ["members.a"] }));
    let cookie = format!("theme=dark; session={token}");
    let (page, same) = (("origin", "https://app.example.com"), ("sec-fetch-site", "same-origin"));
    let ask = async |publish: bool, headers: &[(&str, &str)]| -> Reply {
        let headers = [&[("cookie", cookie.as_str())], headers].concat();
        let (history, publishing) =
            (process.url("/api/channels/members.a/events"), process.url("/api/publish"));
        if publish {
            let event = json!({ "channel": "members.a", "data": "x" });
            return request(Method::POST, &publishing, &headers, Some(&event)).await.unwrap();
        }
        request(Method::GET, &history, &headers, None).await.unwrap()
    };
    for publish in [false, true] {
        for (headers, status, problem) in [
            (&[page][..], 200, ""),
            (&[same], 200, ""),
            (&[], 403, "origin"),
            (&[("sec-fetch-site", "cross-site")], 403, "origin"),
            (&[("sec-fetch-site", "none")], 403, "origin"),
            (&[("origin", "https://evil.example"), same], 403, "origin"),
            (&[("origin", "null")], 403, "origin"),
            (&[page, ("cookie", "session=other")], 401, "bad-credential"),
        ] {
            let reply = ask(publish, headers).await;
            assert_eq!((reply.status, kind(&reply)), (status, problem), "{publish} {headers:?}");
        }
    }
    // The header comes first, and needs no page.
    let authorization = bearer(&token);
    let both = [("cookie", "session=x"), ("authorization", authorization.as_str())];
    let url = process.url("/api/channels/members.a/events");
    assert_eq!(request(Method::GET, &url, &both, None).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_url_has_to_be_allowed() {
    let issuer = Issuer::new();
    let token = issuer.token("ann", &json!({}));
    let (listen, history) = (
        format!("/api/events?channels=members.a&token={token}"),
        format!("/api/channels/members.a/events?token={token}"),
    );
    let process = issuer.standalone("", &[]).await;
    for path in [&listen, &history] {
        let reply = get(&process.url(path)).await.unwrap();
        assert_eq!((reply.status, kind(&reply)), (400, "bad-query"));
        assert!(!reply.body.to_string().contains(&token[..20]), "{}", reply.body);
    }
    let process = issuer.standalone("query_token = true", &[]).await;
    assert_eq!(SseClient::connect(&process.url(&listen), &[]).await.unwrap().status(), 200);
    assert_eq!(get(&process.url(&history)).await.unwrap().status, 200);
    let reply = get(&process.url("/api/channels/members.a/events?token=x")).await.unwrap();
    assert_eq!((reply.status, kind(&reply)), (401, "bad-credential"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_in_a_log_a_metric_a_trace_or_an_answer() {
    let (issuer, collector) = (Issuer::new(), Collector::start().await);
    let endpoint = collector.endpoint();
    let filter = "debug,foghorn=trace,foghorn_auth=trace,foghorn_gateway=trace,foghorn_fanout=trace,foghorn_http=trace";
    let variables = [("FOGHORN_LOG_FILTER", filter)];
    let variables = [&variables[..], &super::traced(&endpoint)].concat();
    let process = issuer.standalone("query_token = true", &variables).await;
    let good = issuer.token("ann", &json!({ "publish": ["a"] }));
    let bad = format!("{}x", issuer.token("bob", &json!({})));
    let mut answers = String::new();
    for token in [&good, &bad] {
        let (authorization, cookie) = (bearer(token), format!("foghorn_token={token}"));
        for headers in [
            &[("authorization", authorization.as_str())][..],
            &[("cookie", cookie.as_str()), ("sec-fetch-site", "same-origin")],
            &[("cookie", cookie.as_str())],
            &[("authorization", authorization.as_str()), ("authorization", "Bearer other")],
        ] {
            for path in
                ["/api/channels/user.bob/events", "/api/channels/a/events", "/api/events/stats", "/nowhere"]
            {
                let reply = request(Method::GET, &process.url(path), headers, None).await.unwrap();
                answers += &format!("{:?} {}\n", reply.headers, reply.body);
            }
            for channel in ["a", "b"] {
                let event = json!({ "channel": channel, "data": "x" });
                let reply =
                    request(Method::POST, &process.url("/api/publish"), headers, Some(&event)).await.unwrap();
                answers += &format!("{:?} {}\n", reply.headers, reply.body);
            }
        }
        for query in
            [format!("token={token}"), format!("channels=a&token={token}&token=2"), format!("tokn={token}")]
        {
            let stream =
                SseClient::connect(&process.url(&format!("/api/events?{query}")), &[]).await.unwrap();
            answers += &format!("{:?}\n", stream.headers());
        }
        let mut grpc = PublisherClient::connect(format!("http://{}", process.grpc())).await.unwrap();
        for channel in ["a", "b"] {
            let event =
                PublishRequest { channel: channel.to_owned(), data: "x".into(), ..Default::default() };
            let mut request = tonic::Request::new(event);
            request.metadata_mut().insert("authorization", authorization.parse().unwrap());
            if let Err(status) = grpc.publish(request).await {
                answers += &format!("{status:?}\n");
            }
        }
    }
    let traces = super::all_traces(&collector, &process, &good, "a").await;
    let metrics = get(&format!("http://{}/metrics", process.admin())).await.unwrap().body.to_string();
    assert!(metrics.contains("foghorn_gateway_refusals_total"), "{metrics}");
    let log = process.process().log();
    assert!(log.contains("stream opened"), "the log says what goes on");
    for token in [&good, &bad] {
        // Neither its claims nor its signature; all headers begin alike.
        for part in token.split('.').skip(1) {
            for (place, text) in
                [("metrics", &metrics), ("log", &log), ("traces", &traces), ("answers", &answers)]
            {
                assert!(!text.contains(&part[..16]), "a token is in the {place}");
            }
        }
    }
    assert!(!log.contains(super::SECRET) && !metrics.contains(super::SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_mints_what_servers_take_and_says_of_others_why_not() {
    let issuer = Issuer::new();
    let process = issuer.standalone("", &[]).await;
    let (config, private) =
        (issuer.config(""), issuer.folder.path().join("private.pem").display().to_string());
    let foghorn = |arguments: &[&str]| {
        std::process::Command::new(foghorn_tests::env::foghorn())
            .args(arguments)
            .env("FOGHORN_CONFIG", &config)
            .env("FOGHORN_URL", process.url(""))
            .output()
            .unwrap()
    };
    let mint = |key: &[&str]| {
        let own = ["token", "mint", "--subject", "ann", "--subscribe", "members.>", "--publish", "members.*"];
        let output = foghorn(&[&own, key].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for token in [mint(&["--key", "mac"]), mint(&["--key", "ec", "--signing-key", &private])] {
        let heard =
            ["subscribe", "members.>", "--since", "1h", "--exit-after", "1", "--raw", "--token", &token];
        assert!(foghorn(&["publish", "members.a", "hello", "--token", &token]).status.success());
        assert_eq!(foghorn(&heard).stdout, b"hello\n");
        let inspected = foghorn(&["token", "inspect", "--json", &token]);
        let said: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
        assert_eq!((&said["valid"], &said["claims"]["sub"]), (&json!(true), &json!("ann")), "{said}");
    }
    let over = issuer.ec.mint("ec", &super::claims("ann", -1, &json!({}))).unwrap();
    let inspected = foghorn(&["token", "inspect", &over]);
    assert_eq!(inspected.status.code(), Some(1), "{inspected:?}");
    assert!(String::from_utf8_lossy(&inspected.stdout).contains("has expired"), "{inspected:?}");
    let refused =
        foghorn(&["publish", "other", "x", "--token", &mint(&["--key", "mac"]), "--retry-for", "0s"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("other"), "{refused:?}");
    assert!(String::from_utf8_lossy(&foghorn(&["token", "mint", "--subject", "a"]).stderr).contains("--key"));
}
