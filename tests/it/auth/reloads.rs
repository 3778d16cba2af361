//! What holds without a restart once a file has changed: keys, and what is logged.

use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{metric, request};
use foghorn_tests::wait::until;
use http::Method;
use serde_json::json;

use super::{Issuer, bearer};

async fn status(process: &Foghorn, token: &str) -> u16 {
    let url = process.url("/api/channels/members.a/events");
    request(Method::GET, &url, &[("authorization", &bearer(token))], None).await.unwrap().status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_a_file_that_changes_counts_and_the_one_before_opens_nothing() {
    let (issuer, next) = (Issuer::new(), Issuer::new());
    let process = issuer.standalone("", &[]).await;
    let [old, new] = [&issuer, &next].map(|issuer| issuer.token("ann", &json!({})));
    assert_eq!((status(&process, &old).await, status(&process, &new).await), (200, 401));
    // One that is wrong changes nothing.
    std::fs::write(&issuer.public, "no key").unwrap();
    until("it to be refused", PATIENCE, async || {
        let refused = metric(process.admin(), r#"foghorn_auth_keys_reread_total{outcome="refused"}"#).await;
        (refused == 1.0).then_some(())
    })
    .await;
    assert!(process.process().log().contains("no public key in PEM"));
    assert_eq!((status(&process, &old).await, status(&process, &new).await), (200, 401));
    std::fs::copy(&next.public, &issuer.public).unwrap();
    until("the new key to count", PATIENCE, async || (status(&process, &new).await == 200).then_some(()))
        .await;
    assert_eq!(status(&process, &old).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_logged_changes_with_the_configuration_file() {
    let issuer = Issuer::new();
    let process = issuer.standalone("", &[]).await;
    let file = issuer.config("");
    let text = std::fs::read_to_string(&file).unwrap();
    let says = async |what: &str| {
        until(what, PATIENCE, async || process.process().log().contains(what).then_some(())).await;
    };
    assert!(!process.process().log().contains("TRACE") && !process.process().log().contains("DEBUG"));
    std::fs::write(&file, format!("{text}\n[log]\nfilter = \"foghorn=loud\"\n")).unwrap();
    says("is wrong; what is logged stays").await;
    std::fs::write(&file, format!("{text}\n[log]\nfilter = \"trace\"\n")).unwrap();
    says("what is logged has changed").await;
    assert_eq!(status(&process, &issuer.token("ann", &json!({}))).await, 200);
    says("TRACE").await;
}
